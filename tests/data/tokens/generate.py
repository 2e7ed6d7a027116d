"""Writes counts.tsv beside itself: texts made from a seed and the word lists below, and how many tokens Python tiktoken
counts in each with o200k_base and cl100k_base. One text a line: kind, o200k, cl100k, the text as a JSON string.

    python generate.py FOLDER    # FOLDER holds o200k_base.tiktoken and cl100k_base.tiktoken, as OpenAI publishes them

Made with tiktoken 0.14.0 (`pip install tiktoken`). The same seed gives the same texts, byte for byte.
"""

import json
import pathlib
import random
import sys

import tiktoken
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext import openai_public

WORDS = {
    "latin": "the of and house river quickly naïve café über straße año garçon mañana être øre łódź žluťoučký İstanbul "
    "don't we're it's they'll I'd Things information international counter-clockwise unhappily e.g. Müller's ÇALIŞ "
    "water morning because through 'quoted' rhythm window paper seventeen beautiful 3rd 21st O'Neill HTTP iPhone "
    "façade piñata smörgåsbord Việt Nam đường nước ngôn ngữ người zażółć gęślą jaźń árvíztűrő tükörfúrógép",
    "cyrillic": "дом река быстро утро вода окно бумага семнадцать красивый международный информация потому что через "
    "человек сказал Москва Київ їжак ґанок ўсё љубав њива Ђорђе ѓавол българия въпрос ещё подъезд объявление "
    "ПРИВЕТ России неделя время большой жизнь день рука работа слово",
    "greek": "σπίτι ποτάμι γρήγορα πρωί νερό παράθυρο χαρτί δεκαεπτά όμορφος διεθνής πληροφορία επειδή μέσα άνθρωπος "
    "είπε Αθήνα Θεσσαλονίκη ΕΛΛΑΔΑ ημέρα εβδομάδα χρόνος μεγάλος ζωή χέρι δουλειά λέξη ἄνθρωπος λόγος καὶ τοῦ",
    "arabic": "بيت نهر بسرعة صباح ماء نافذة ورق سبعة عشر جميل دولي معلومات لأن خلال إنسان قال القاهرة بغداد يوم أسبوع "
    "وقت كبير حياة يد عمل كلمة السَّلامُ عَلَيْكُم كِتَاب مدرسة الطالب المُعَلِّم فارسی می‌خواهم گفت پنجره چهار اردو ہے میں",
    "hebrew": "בית נהר מהר בוקר מים חלון נייר שבעה־עשר יפה בינלאומי מידע כי דרך אדם אמר ירושלים תל־אביב יום שבוע זמן "
    "גדול חיים יד עבודה מילה שָׁלוֹם עֲלֵיכֶם סֵפֶר ילדים התלמיד המורה ק״מ צה״ל ז׳בוטינסקי",
    "devanagari": "घर नदी जल्दी सुबह पानी खिड़की काग़ज़ सत्रह सुंदर अंतरराष्ट्रीय जानकारी क्योंकि मनुष्य कहा दिल्ली मुंबई दिन सप्ताह "
    "समय बड़ा जीवन हाथ काम शब्द नमस्ते विद्यालय विद्यार्थी हिन्दी मराठी आहे नाही पुस्तक क्षत्रिय ज्ञान श्री १२३ ॐ संस्कृतम्",
    "thai": "บ้าน แม่น้ำ เร็ว เช้า น้ำ หน้าต่าง กระดาษ สิบเจ็ด สวยงาม ระหว่างประเทศ ข้อมูล เพราะว่า ผ่าน มนุษย์ พูด กรุงเทพมหานคร "
    "วัน สัปดาห์ เวลา ใหญ่ ชีวิต มือ งาน คำ สวัสดี โรงเรียน นักเรียน ครู หนังสือ ภาษาไทย ๑๒๓ ฯลฯ เชียงใหม่",
    "chinese": "房子 河流 很快 早上 水 窗户 纸 十七 美丽 国际 信息 因为 通过 人 说 北京 上海 天 星期 时间 大 生活 手 工作 词语 "
    "你好 学校 学生 老师 書籍 繁體字 臺灣 香港 龍 𠀀 𪚥 〇 的 了 是 在 我们 他們 人工智能 机器学习 鬱 齉",
    "japanese": "家 川 はやく 朝 水 窓 紙 十七 美しい 国際 情報 なぜなら 人間 言った 東京 大阪 日 週間 時間 大きい 生活 手 仕事 言葉 "
    "こんにちは 学校 学生 先生 コンピューター ﾊﾝｶｸ ｶﾞ プログラミング です ます ありがとうございます ー々 〜 を が は",
    "korean": "집 강 빨리 아침 물 창문 종이 열일곱 아름다운 국제 정보 왜냐하면 통하여 사람 말했다 서울 부산 날 주 시간 큰 생활 손 일 "
    "단어 안녕하세요 학교 학생 선생님 컴퓨터 프로그래밍 입니다 했습니다 ㅋㅋㅋ ㅠㅠ 韓國 가각갂 뷁 한국",
    "emoji": "😀 🎉 👍 👍🏽 👨‍👩‍👧‍👦 ❤️ 🏳️‍🌈 🇩🇪 🇯🇵 1️⃣ ☀ ☃️ ✈ 🧑🏿‍🚀 🫠 🪿 ♻️ ™ © → ⇒ ∑ ∞ ½ Ⅷ ① 𝒳 ﬁ ⠿ ░▒▓ ♫ ok LOL :-) (^_^) ¯\\_(ツ)_/¯",
    "code": "fn let mut return self.value if else {} () => -> :: += == != // # /* */ <T> &str Vec<u8> 0x7fff_ffff 1e-9 3.14159 "
    "camelCaseName snake_case_name SCREAMING_CASE \"string\\n\" 'c' i++ x[i] def class import async await None null "
    "https://example.org/a/b?c=d&e=f#g user@example.org $HOME ${var} %s {0:>8} <div class=\"x\"> </div> SELECT * FROM "
    "YWJjZGVmZ2hpamts 550e8400-e29b-41d4-a716-446655440000 1,234,567.89 2025-11-21T09:42:40Z C:\\dir\\file.txt ;; &&",
}
JOINTS = {"thai": ["", "", " "], "chinese": ["", "", "，", "。", "、"], "japanese": ["", "", "、", "。", "「", "」"]}
PLAIN_JOINTS = [" "] * 12 + [", ", ". ", "\n", "\n\n", "  ", "\t", "; ", " - ", "!\n", "? ", "… "]
CODE_JOINTS = [" ", " ", " ", "\n    ", "\n", "", ";\n", ".", "(", ")", ", ", "\r\n", "\n\t\t", "        "]
ODD = [
    "\u00a0", "\u3000", "\u0085", "\u2028", "\u200b", "\u200d", "\ufeff", "\r", "\r\n", "\n \n", " \t ", "    ", "\x00", "\x1b[0m",
    "<|endoftext|>", "<|im_start|>", "<|endofprompt|>", "'S", "'LL", "'ſ", "’s", "ſ", "K", "ǅ", "ʰ", "e\u0301", "\u0301\u0302", "ß'D",
    "Ａ１", "٣٤٥", "१२३४", "¼½", "////", "====", "!!!\n\n\n", "/\n/", "\ufffd", "\U0010ffff", "\ue000", "\u0e33", "ᄒ\u1161\u11ab", "ﷺ", "ꙮ", "🏻",
]


def text(kind, dice):
    if kind == "mixed":
        kinds = [name for name in WORDS] + ["odd"]
        return "".join(text(dice.choice(kinds), dice) for _ in range(dice.randint(1, 4)))[:400]
    if kind == "odd":
        parts = []
        for _ in range(dice.randint(1, 25)):
            roll = dice.random()
            if roll < 0.5:
                parts.append(dice.choice(ODD))
            elif roll < 0.7:
                parts.append(chr(dice.choice([dice.randint(0, 0xD7FF), dice.randint(0xE000, 0x10FFFF)])))
            elif roll < 0.85:
                parts.append(dice.choice(" \n\t'/aA1.,") * dice.randint(1, 12))
            else:
                parts.append(dice.choice(WORDS["latin"].split()))
        return "".join(parts)
    words = WORDS[kind].split()
    joints = CODE_JOINTS if kind == "code" else JOINTS.get(kind, PLAIN_JOINTS)
    parts = []
    for _ in range(dice.randint(1, 22)):
        word = dice.choice(words)
        roll = dice.random()
        if roll < 0.04:
            word = word.upper()
        elif roll < 0.08:
            word = word.capitalize()
        elif roll < 0.12:
            word = str(dice.randint(0, 10 ** dice.randint(1, 9)))
        elif roll < 0.15:
            word = word[: dice.randint(1, len(word))] + dice.choice(words)
        parts += [word, dice.choice(joints)]
    return "".join(parts if dice.random() < 0.3 else parts[:-1])


def encoding(folder, name, pattern, special):
    ranks = load_tiktoken_bpe(str(folder / f"{name}.tiktoken"))
    return tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=special)


def patterns(name):
    """The pattern as tiktoken has it, without fetching the vocabulary."""
    fetch, openai_public.load_tiktoken_bpe = openai_public.load_tiktoken_bpe, lambda *_, **__: {}
    try:
        return getattr(openai_public, name)()
    finally:
        openai_public.load_tiktoken_bpe = fetch


def main():
    folder = pathlib.Path(sys.argv[1])
    encodings = [
        encoding(folder, name, patterns(name)["pat_str"], patterns(name)["special_tokens"]) for name in ("o200k_base", "cl100k_base")
    ]
    dice = random.Random(20251121)
    lines, seen = [], set()
    for kind in [*WORDS, "odd", "mixed"]:
        made = 0
        while made < 450:
            sample = text(kind, dice)
            if sample in seen:
                continue
            seen.add(sample)
            made += 1
            counts = [len(encoding.encode_ordinary(sample)) for encoding in encodings]
            lines.append("\t".join([kind, *map(str, counts), json.dumps(sample, ensure_ascii=False)]))
    target = pathlib.Path(__file__).with_name("counts.tsv")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
    print(f"{len(lines)} texts, {target.stat().st_size} bytes")


main()
