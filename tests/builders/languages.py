"""Documents and questions about them, made by rule in several languages, in the default's shape.

A document is a thing with a name: a heading, a few sentences, some of them long. Four records ask
about each: what it is for, what it is called, what it needs, and something that no document says.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from tasks.records.schema import Document, Message, Record


@dataclass(frozen=True)
class Language:
    """What texts are made of: parts of names, and templates with slots for name, use and tools."""

    firsts: tuple[str, ...]
    lasts: tuple[str, ...]
    uses: tuple[str, ...]
    tools: tuple[str, ...]
    sentences: tuple[str, ...]
    purpose: str
    name: str
    needs: str
    unknown: str
    silence: str
    join: str


KOREAN = Language(
    firsts=("푸른", "작은", "오래된", "자동", "휴대용", "겨울용", "이중", "회전"),
    lasts=("펌프", "난방기", "도서 반납함", "온실", "저울", "발전기", "분쇄기", "온도계", "자물쇠"),
    uses=("물을 위층으로 올린다", "책을 밤에도 받는다", "씨앗을 고르게 나눈다", "열을 오래 지킨다"),
    tools=("나사못", "건전지", "깨끗한 물", "얇은 장갑", "기름", "열쇠", "젖은 천"),
    sentences=(
        "{name}은 {use} 장치이며, 처음 설치한 뒤에는 한 달에 한 번씩 반드시 점검해야 합니다.",
        "이 장치를 다룰 때에는 {tool}과 {other}을 미리 준비해 두는 것이 좋습니다.",
        "전원을 켜기 전에 덮개가 닫혀 있는지 확인하고, 이상한 소리가 나면 즉시 작동을 멈추십시오.",
        "관리사무소에서는 {name}의 사용 기록을 분기마다 정리하여 주민들에게 공개하고 있습니다.",
        "고장이 의심되면 직접 분해하지 말고 담당자에게 연락하여 예비 부품을 받으시기 바랍니다.",
    ),
    purpose="{name}은 무엇을 하는 장치인가요?",
    name='"{use}"라고 설명되어 있는 장치의 이름은 무엇인가요?',
    needs="{name}을 다루려면 무엇이 필요한가요?",
    unknown="{name}을 발명한 사람은 누구인가요?",
    silence="모릅니다.",
    join=" ",
)
CHINESE = Language(
    firsts=("蓝色", "小型", "老式", "自动", "便携", "冬季", "双层", "旋转"),
    lasts=("水泵", "取暖器", "还书箱", "温室", "天平", "发电机", "粉碎机", "温度计", "门锁"),
    uses=("把水送到楼上", "夜间接收书籍", "均匀地分配种子", "长时间保持热量"),
    tools=("螺丝钉", "电池", "清水", "薄手套", "润滑油", "钥匙", "湿布"),
    sentences=(
        "{name}是用来{use}的装置，安装之后每个月都必须检查一次，以免管道里积水或者结冰。",
        "操作这台装置的时候，最好事先准备好{tool}和{other}，并且放在伸手可及的地方。",
        "打开电源之前，请确认盖子已经关好；如果听到异常的声音，请立即停止运转并通知值班人员。",
        "管理处每个季度都会整理{name}的使用记录，并向全体住户公开。",
        "怀疑发生故障时，不要自行拆卸，请与负责人联系，领取备用零件。",
    ),
    purpose="{name}是做什么用的？",
    name="用来“{use}”的装置叫什么名字？",
    needs="操作{name}需要准备什么？",
    unknown="{name}是谁发明的？",
    silence="我不知道。",
    join="",
)
GERMAN = Language(
    firsts=("Blaue", "Kleine", "Alte", "Selbsttätige", "Tragbare", "Doppelte", "Drehbare"),
    lasts=(
        "Kellerpumpe", "Warmwasserheizung", "Buchrückgabeklappe", "Gewächshauslüftung",
        "Apothekerwaage", "Notstromversorgung", "Getreidemühle", "Türschließanlage",
    ),
    uses=(
        "hebt das Wasser in die oberen Stockwerke", "nimmt auch nachts Bücher entgegen",
        "verteilt das Saatgut gleichmäßig", "hält die Wärme über viele Stunden",
    ),
    tools=("Schrauben", "Batterien", "klares Wasser", "dünne Handschuhe", "Öl", "ein Tuch"),
    sentences=(
        "Die {name} {use} und muss nach der Inbetriebnahme mindestens einmal im Monat "
        "sicherheitstechnisch überprüft werden, damit sich in den Leitungen kein Wasser sammelt.",
        "Vor der Bedienung sollten {tool} und {other} in Reichweite bereitliegen.",
        "Vergewissern Sie sich vor dem Einschalten, dass die Abdeckung geschlossen ist, und "
        "unterbrechen Sie den Betrieb bei ungewöhnlichen Geräuschen unverzüglich.",
        "Die Hausverwaltung veröffentlicht die Nutzungsaufzeichnungen der {name} vierteljährlich.",
        "Bei Verdacht auf eine Betriebsstörung wenden Sie sich an die Wartungsbeauftragten, die "
        "Ersatzteile vorrätig halten; zerlegen Sie nichts selbst.",
    ),
    purpose="Wozu dient die {name}?",
    name="Wie heißt die Anlage, von der es heißt: „{use}“?",
    needs="Was braucht man, um die {name} zu bedienen?",
    unknown="Wer hat die {name} erfunden?",
    silence="Das weiß ich nicht.",
    join=" ",
)  # fmt: skip
LANGUAGES = {"korean": KOREAN, "chinese": CHINESE, "german": GERMAN}


def made_data(language: Language, count: int) -> tuple[list[Record], list[Document]]:
    """Return the records about so many documents, and the documents."""
    records: list[Record] = []
    documents: list[Document] = []
    for number in range(count):
        made, asked = _about(language, number)
        documents.append(made)
        records.extend(asked)
    return records, documents


def _about(language: Language, number: int) -> tuple[Document, Iterator[Record]]:
    chance = random.Random(number)
    first, last = chance.choice(language.firsts), chance.choice(language.lasts)
    name = language.join.join((first, last, f"{number + 100}"))
    tool, other = chance.sample(language.tools, 2)
    slots = {"name": name, "use": chance.choice(language.uses), "tool": tool, "other": other}
    texts = [text.format(**slots) for text in language.sentences]
    body = texts[:2] + [chance.choice(texts[2:]) for _ in range(chance.randint(0, 12))]
    identifier = f"d{number:05}"
    document = Document(identifier, language.join.join(body), name, "made", "MIT")
    asked = {
        "purpose": (language.purpose, slots["use"]),
        "name": (language.name, name),
        "needs": (language.needs, f"{tool}, {other}"),
        "unanswerable": (language.unknown, language.silence),
    }

    def records() -> Iterator[Record]:
        for kind, (question, answer) in asked.items():
            turns = (Message("user", question.format(**slots)), Message("assistant", answer))
            gold = () if kind == "unanswerable" else (identifier,)
            yield Record(f"{kind}/{identifier}", turns, gold, kind, identifier, "made", "MIT", "n1")

    return document, records()
