"use strict";
/* Pages through the answers. What comes from data becomes text nodes, never markup. */
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [RECORD, MODE, SYSTEM, REFERENCE, OUTPUT, PASSAGES, SCORES] = [0, 1, 2, 3, 4, 5, 6];
  const control = {};
  for (const name of ["mode", "slice", "metric", "system", "against", "search"]) {
    control[name] = document.getElementById(name);
  }
  const article = document.getElementById("record");
  const text = (place) => data.texts[place];
  const folded = (string) => string.normalize("NFKC").toLowerCase();

  /* Answers by mode and record, one a system. */
  const asked = data.modes.map(() => new Map());
  for (const answer of data.answers) {
    const records = asked[answer[MODE]];
    if (!records.has(answer[RECORD])) records.set(answer[RECORD], []);
    records.get(answer[RECORD])[answer[SYSTEM]] = answer;
  }

  function element(name, className, content) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (content !== undefined) made.textContent = content;
    return made;
  }

  function fill(select, names, values, chosen) {
    select.replaceChildren();
    names.forEach((name, place) => {
      const option = element("option", "", name);
      option.value = values[place];
      select.append(option);
    });
    const wanted = String(chosen);
    select.value = values.map(String).includes(wanted) ? wanted : String(values[0]);
  }

  /* The systems that were asked in the mode: a choice that is still there stays. */
  function fillSystems() {
    const present = new Set();
    for (const answers of asked[control.mode.value].values()) {
      answers.forEach((_, system) => present.add(system));
    }
    const systems = [...present].sort((left, right) => left - right);
    const names = systems.map((system) => data.systems[system]);
    const adapter = data.systems.indexOf("adapter");
    fill(control.system, names, systems, control.system.value === "" ? adapter : control.system.value);
    fill(control.against, ["(nothing)", ...names], ["", ...systems], control.against.value);
  }

  function score(answers, system) {
    const answer = answers[system];
    const value = answer === undefined ? null : answer[SCORES][control.metric.value];
    return value === null ? null : Number(value);
  }

  /* Records that match, with their rank, lowest first; those without a rank are left out. */
  function chosen() {
    const wanted = folded(control.search.value.trim());
    const found = [];
    for (const [record, answers] of asked[control.mode.value]) {
      const own = score(answers, control.system.value);
      const other = control.against.value === "" ? 0 : score(answers, control.against.value);
      if (own === null || other === null) continue;
      const [id, slice, question] = data.records[record].map(text);
      if (control.slice.value !== "" && control.slice.value !== "=" + slice) continue;
      if (wanted !== "") {
        const parts = [id, question, ...answers.flatMap((one) => [text(one[REFERENCE]), text(one[OUTPUT])])];
        if (!parts.some((part) => folded(part).includes(wanted))) continue;
      }
      found.push({ record, answers, rank: own - other });
    }
    return found.sort((left, right) => left.rank - right.rank || left.record - right.record);
  }

  function shown(value) {
    if (value === null) return "–";
    if (typeof value === "boolean") return value ? "yes" : "no";
    return Number.isInteger(value) ? String(value) : value.toFixed(Math.abs(value) < 100 ? 3 : 0);
  }

  function card(heading, content, className) {
    const made = element("div", "answer " + className);
    made.append(element("h4", "", heading));
    made.append(content === "" ? element("p", "text empty", "(empty)") : element("p", "text", content));
    return made;
  }

  function answerCard(answer) {
    const made = card(data.systems[answer[SYSTEM]], text(answer[OUTPUT]), "");
    const value = answer[SCORES][control.metric.value];
    const tone = typeof value !== "number" || value > 1 ? "" : value >= 0.999 ? "good" : value < 0.5 ? "bad" : "";
    made.firstChild.append(element("span", tone, shown(value)));
    const numbers = data.scores.map((name, place) => name + " " + shown(answer[SCORES][place]));
    made.append(element("p", "numbers", numbers.join(" · ")));
    return made;
  }

  /* What the prompts held: once, with who was shown it where that differs. */
  function passages(answers) {
    const groups = new Map();
    for (const answer of answers.filter(Boolean)) {
      const key = answer[PASSAGES].join(" ");
      if (!groups.has(key)) groups.set(key, { places: answer[PASSAGES], systems: [] });
      groups.get(key).systems.push(data.systems[answer[SYSTEM]]);
    }
    const made = [];
    for (const { places, systems } of groups.values()) {
      if (places.length === 0) continue;
      const details = element("details", "");
      const who = groups.size > 1 ? " shown to " + systems.join(", ") : "";
      details.append(element("summary", "", "Passages (" + places.length + ")" + who));
      for (const place of places) {
        const [id, content] = data.passages[place];
        details.append(element("strong", "", id));
        details.append(element("p", "", content === null ? "(its text was not kept)" : text(content)));
      }
      made.push(details);
    }
    return made;
  }

  let found = [];
  let at = 0;

  function show() {
    const place = document.getElementById("place");
    document.getElementById("previous").disabled = at <= 0;
    document.getElementById("next").disabled = at >= found.length - 1;
    if (found.length === 0) {
      place.textContent = "no record matches";
      article.replaceChildren();
      return;
    }
    const { record, answers } = found[at];
    const [id, slice, question] = data.records[record].map(text);
    place.textContent = at + 1 + " of " + found.length;
    const cards = element("div", "answers");
    const references = new Set(answers.filter(Boolean).map((answer) => text(answer[REFERENCE])));
    for (const reference of references) cards.append(card("reference", reference, "reference"));
    cards.append(...answers.filter(Boolean).map(answerCard));
    const about = element("p", "quiet", id + " · " + slice);
    const open = article.querySelector("details[open]") !== null;
    const shownPassages = passages(answers);
    for (const details of shownPassages) details.open = open;
    article.replaceChildren(about, element("h3", "", question), cards, ...shownPassages);
  }

  function restart() {
    found = chosen();
    at = 0;
    show();
  }

  function turn(to) {
    at = Math.max(0, Math.min(found.length - 1, to));
    show();
  }

  const slices = [...new Set(data.records.map((record) => text(record[1])))].sort();
  fill(control.mode, data.modes, data.modes.map((_, place) => place), data.mode);
  fill(control.slice, ["(all)", ...slices], ["", ...slices.map((slice) => "=" + slice)], "");
  fill(control.metric, data.scores, data.scores.map((_, place) => place), data.metric);
  fillSystems();
  control.mode.addEventListener("change", fillSystems);
  for (const name of Object.keys(control)) control[name].addEventListener("input", restart);
  document.getElementById("controls").addEventListener("submit", (event) => event.preventDefault());
  document.getElementById("previous").addEventListener("click", () => turn(at - 1));
  document.getElementById("next").addEventListener("click", () => turn(at + 1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, [tabindex]")) return;
    const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: found.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    turn(to);
  });
  restart();
})();
