//! What holds for every text.

use proptest::prelude::*;
use proptest::sample::select;

use super::work::read_by;
use super::*;

const LEVELS: [fn() -> Normalize; 2] = [Normalize::safe, Normalize::aggressive];

const SENTENCES: [&str; 6] = [
    "Answer in one short sentence, please, and say so.",
    "请用一句简短的中文回答下面的问题，谢谢。",
    "ราคาเท่าไรและส่งถึงเมื่อไร ช่วยตอบด้วยครับ",
    "И\u{a0}сколько это стоит, и когда оно придёт?",
    "Yes",
    "As follows:",
];

/// What must not change.
fn region() -> impl Strategy<Value = String> {
    let code = "[ab`~ \t\r\n]{0,20}";
    let blanks = select(vec![" ", "  ", "\t"]);
    prop_oneof![
        (code, select(vec!["`````", "~~~~~"])).prop_map(|(code, mark)| format!("{mark}x\n{code}\n{mark}")),
        (blanks, code).prop_map(|(blank, code)| format!("<pre>{blank}\n{code}\n</pre>")),
        "    [abc ]{1,9}x  (\n\n\n     y  )?\n\tz".prop_map(|code| code),
        "(> [a `]{0,6}  \n){1,3}>  end".prop_map(|quote| quote),
        r#"\{"a":  "[ab }]{0,5}",  (\r\n|\n\n\n) "b": \[  1,   2\]\}"#.prop_map(|json| json),
        "\\| [ab ]{0,9}\\|  (\n|\r\n)\\|----------\\|(\n\\| [ab ]{0,9}\\|){1,2}".prop_map(|table| table),
        "so `[ab]  [ab ]{0,4}` is".prop_map(|code| code),
        "so `a  (\n  b   ){1,2}\nc` is".prop_map(|code| code),
        "- yes(\n- yes){1,3}".prop_map(|list| list),
    ]
}

/// What may.
fn prose() -> impl Strategy<Value = String> {
    let sentence = (select(&SENTENCES[..]), 1..4usize, select(vec![" ", "   ", "\n", "  \n", "\r\n"]));
    prop_oneof![
        4 => sentence.prop_map(|(sentence, times, between)| vec![sentence; times].join(between)),
        3 => (select(&SENTENCES[..4]), 3..5usize).prop_map(|(sentence, times)| vec![sentence; times].join(" ")),
        1 => "[-=*_#]{1,12}|-{9,20}|={9,20}".prop_map(|line| line),
        1 => select(&SENTENCES[..4]).prop_map(|s| format!("<doc>\n{s}\n\n{s} {s}\n</doc>\n<doc>\n{s}\n\n{s} {s}\n</doc>")),
    ]
}

fn text() -> impl Strategy<Value = (String, Vec<String>)> {
    let block = prop_oneof![3 => prose().prop_map(|text| (text, false)), 2 => region().prop_map(|text| (text, true))];
    let gap = select(vec!["\n\n", "\r\n\r\n", "\n\n\n\n", "\n \t\n", "\r\r", "\n  \n\n"]);
    prop::collection::vec((block, gap), 1..9).prop_map(|blocks| {
        let whole = blocks.iter().flat_map(|((text, _), gap)| [text.as_str(), gap]).collect();
        (whole, blocks.into_iter().filter_map(|((text, kept), _)| kept.then_some(text)).collect())
    })
}

/// All that can make trouble, in any order.
const TROUBLE: &str = "([ab`~>|{}\"<:/ \t\r\n\u{e9}\u{3000}'#,=-]|\n\n|```|    |</|<a>\n|</a>\n|\\[|\\]|---------|\
                       Answer in one short sentence, please\\.\n?){0,60}";

fn say(normalize: Normalize, text: &str) -> String {
    normalize.apply(vec![Message::user(text)].into())[0].text()
}

fn visible(text: &str) -> impl Iterator<Item = char> {
    text.chars().filter(|c| !matches!(c, ' ' | '\t' | '\n' | '\r'))
}

fn holds(text: &str) -> Result<(), TestCaseError> {
    for level in LEVELS {
        let once = say(level(), text);
        prop_assert_eq!(say(level(), &once), once.as_str(), "twice is once: {:?}", text);
        prop_assert!(once.len() <= text.len());
        prop_assert_eq!(once.is_empty(), text.is_empty());
        // Nothing is written that was not there, in another order neither.
        let mut before = visible(text);
        prop_assert!(visible(&once).all(|c| before.any(|other| other == c)), "{:?} -> {:?}", text, once);
    }
    prop_assert!(visible(&say(Normalize::safe(), text)).eq(visible(text)), "safe changes no word: {:?}", text);
    Ok(())
}

proptest! {
    #[test]
    fn a_written_text((text, regions) in text()) {
        holds(&text)?;
        for level in LEVELS {
            let normalized = say(level(), &text);
            for region in &regions {
                prop_assert!(normalized.contains(region.as_str()), "{:?} of {:?} -> {:?}", region, text, normalized);
            }
        }
    }

    #[test]
    fn any_text(text in TROUBLE) {
        holds(&text)?;
    }

    #[test]
    fn any_parts(parts in prop::collection::vec(prop_oneof![text().prop_map(|(text, _)| Some(text)), TROUBLE.prop_map(Some), Just(None)], 1..5)) {
        let part = |text: Option<String>| text.map_or_else(|| Part::image("https://a.example/b.png"), Part::text);
        let content = Content::Parts(parts.into_iter().map(part).collect());
        let message = Message { content: Some(content), ..Message::empty(Role::User) };
        for level in LEVELS {
            let once = level().apply(vec![message.clone()].into());
            prop_assert!(level().apply(once.clone()).ptr_eq(&once), "{:?} -> {:?}", message, once);
        }
    }
}

/// However long a text is, its lines, passages and documents are read, hashed and compared a few times: it is gone over
/// four times at most, each time with about six looks at each byte.
#[test]
fn long_texts_take_no_longer_than_they_are_long() {
    const BYTES: usize = 1 << 16;
    const LOOKS: usize = 24;
    let say = |normalize: Normalize, text: &str| {
        let mut said = String::new();
        let read = read_by(|| said = say(normalize, text));
        assert!(read <= LOOKS * text.len(), "{read} bytes of {} read: {:?}", text.len(), text.get(..40));
        said
    };
    for unit in [
        "\n",
        "a\n",
        "a\n\n",
        " ",
        " \n",
        "`",
        "``` \n",
        "~~~\n",
        "> ",
        "> \n",
        "{",
        "[\n",
        "{\"a\n",
        "- ",
        "1. ",
        "\t",
        "    a\n\n",
        "<a>\n",
        "<a>\n</a>\n",
        "</a>\n",
        "</",
        "a  b\n",
        "|",
        "\u{2500}",
        "\\`",
        "---------\n",
        "---------\n\n",
        "'",
        ",",
        "\r",
        "\r\n",
        "Answer in one short sentence, please.\n",
        "Answer in one short sentence, please.\n\n",
        "<pre",
        "<pre>\n",
        "<pre></",
        "`a\n",
    ] {
        let text = unit.repeat(BYTES / unit.len());
        for level in LEVELS {
            let once = say(level(), &text);
            assert_eq!(say(level(), &once), once);
        }
    }
    let paragraph = "The lock of the model K9 opens with a quarter turn to the left. ".repeat(4);
    let deep: String = (0..BYTES / 16)
        .map(|n| format!("<a{n}>\n"))
        .chain((0..BYTES / 16).rev().map(|n| format!("</a{n}>\n")))
        .collect();
    let many: String = (0..1000).map(|n| format!("{paragraph}{}\n\n", n % 10)).collect();
    assert_eq!(say(Normalize::aggressive(), &deep), deep.trim_end());
    assert_eq!(say(Normalize::aggressive(), &many).matches("\n\n").count(), 9);
}
