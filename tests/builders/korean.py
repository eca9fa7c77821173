"""Korean documents and questions, made on the spot: invented towns, and particles that differ."""

from pathlib import Path

from tasks.records.schema import Document, Message, Record, write_documents, write_records
from tasks.stage.outputs import write_manifest

_FIRST = "가나다라마바사아자차카타파하거너더러머버서어저처"
_SECOND = "람산천평원곡봉암호담솔빛들숲샘골재섬벌울"
_GOODS = ("사과", "인삼", "도자기", "한지", "녹차", "굴비", "대추", "꿀", "버섯", "곶감")
_SIGHTS = ("폭포", "향교", "석탑", "온천", "갯벌", "산성", "서원", "다리", "등대", "계곡")


def town(number: int) -> str:
    """A name that no other number has."""
    first, second = divmod(number, len(_SECOND))
    return f"{_FIRST[first % len(_FIRST)]}{_SECOND[second]}{'시군읍'[first // len(_FIRST)]}"


def document(number: int) -> Document:
    """What is known of a town; its name carries another particle than in the question."""
    name, goods, sight = town(number), _goods(number), _SIGHTS[number * 7 % len(_SIGHTS)]
    text = (
        f"{name}에서는 해마다 {goods} 축제가 열린다. 이곳 사람들은 예로부터 {goods}를 길러 왔고 "
        f"{name}에 있는 {sight}도 널리 알려져 있다."
    )
    return Document(f"doc{number}", text, "", "made", "CC0")


def record(number: int) -> Record:
    """A question about a town, whose answer stands in its document alone."""
    turns = (
        Message("user", f"{town(number)}의 축제는 무엇을 기리나요?"),
        Message("assistant", f"{_goods(number)}입니다."),
    )
    name = f"doc{number}"
    return Record(f"r{number}", turns, (name,), "town", name, "made", "CC0", "n1")


def _goods(number: int) -> str:
    return _GOODS[number % len(_GOODS)]


def write_korean(folder: Path, *, documents: int, questions: int) -> Path:
    """Write a curated folder, its splits all alike; return it."""
    folder.mkdir(parents=True)
    step = documents // questions
    rows = [record(number * step) for number in range(questions)]
    for split in ("train", "validation", "test"):
        write_records(folder / f"{split}.jsonl", rows)
    write_documents(folder / "documents.jsonl", map(document, range(documents)))
    (folder / "lineage.jsonl").write_text("")
    write_manifest(folder)
    return folder
