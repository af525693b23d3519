"""Questions about an image in Chinese (SLAKE), each to be answered in Chinese."""

from biomedgpt_jax.data.instructions.form import Form, Kind
from biomedgpt_jax.data.instructions.variant import Instructions, Variant

CHINESE = Instructions(
    "vqa-chinese",
    needs=frozenset({"question"}),
    given=frozenset(),
    variants=(
        Variant("chinese", "{question}请用中文回答。", Form(Kind.TEXT, language="zh")),
        Variant("brief", "请看图回答：{question}回答不要超过十个字。", Form(Kind.TEXT, words=10, language="zh")),
        Variant("json", '{question}只返回JSON：{{"答案": "……"}}', Form(Kind.TEXT, language="zh", json="答案")),
        Variant("sentence", "根据这张医学影像，用一句中文回答：{question}",
                Form(Kind.TEXT, sentences=1, language="zh")),
        Variant("doctor", "你是一名放射科医生，请用中文简短回答患者的问题：{question}",
                Form(Kind.TEXT, language="zh")),
        Variant("twenty", "{question}请在二十个字以内作答。", Form(Kind.TEXT, words=20, language="zh")),
        Variant("held", "仔细观察图像。{question}你的回答必须是中文。", Form(Kind.TEXT, language="zh")),
        Variant("json-held", '观察影像后回答：{question}回答写入JSON对象的"结果"字段，不要写别的。',
                Form(Kind.TEXT, language="zh", json="结果")),
    ),
)  # fmt: skip
