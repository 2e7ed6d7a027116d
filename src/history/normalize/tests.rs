//! Each level on texts written by hand.

use super::*;

fn say(normalize: Normalize, text: &str) -> String {
    normalize.apply(vec![Message::user(text)].into())[0].text()
}

fn safe(text: &str) -> String {
    say(Normalize::safe(), text)
}

fn aggressive(text: &str) -> String {
    say(Normalize::aggressive(), text)
}

/// Stays in both levels.
fn stays(text: &str) {
    assert_eq!(safe(text), text);
    assert_eq!(aggressive(text), text);
}

const LONG: &str = "The lock of the model K9 opens with a quarter turn to the left, and closes with another one to the \
                    right, as long as the key is in it.";
const OTHER: &str = "A wheel that rubs on its brake is put right at the small screw beside the lever: half a turn is \
                     enough in most cases, says the handbook.";

/// Twice the same of these is not once.
#[test]
fn encoded_data_and_calls_are_no_sentences() {
    for line in [
        "QUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD",
        "deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
        "NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNN",
        "main.descend(0x1, 0x2, 0x3) in the main thread",
        "move_forward_by(10) and wait for the answer",
    ] {
        stays(&format!("{line}\n{line}\n{line}"));
    }
    let chinese = "歸去來兮田園將蕪胡不歸既自以心為形役";
    assert_eq!(aggressive(&format!("{chinese}\n{chinese}")), chinese);
    let aside = "The lock (of the model K9) opens with a quarter turn";
    assert_eq!(aggressive(&format!("{aside}\n{aside}")), aside);
}

#[test]
fn safe_brings_white_space_into_one_form() {
    for (text, expected) in [
        ("a\r\nb\rc", "a\nb\nc"),
        ("a  \nb\t\n", "a\nb"),
        ("a\n\n\n\nb", "a\n\nb"),
        ("a\n \n\t\nb", "a\n\nb"),
        ("\n\n \n  a\nb", "  a\nb"),
        ("\na", "a"),
        ("\u{3000}你好\n世界  ", "\u{3000}你好\n世界"),
        ("a  b", "a  b"),
    ] {
        assert_eq!(safe(text), expected, "{text:?}");
    }
    for text in
        ["a\n\nb", "  indented\n  list", " \n ", "", "\u{a0}\n\u{2028}\n\u{200d} \u{3000}", "a\u{2028}\u{2028}b"]
    {
        stays(text);
    }
}

#[test]
fn code_stays() {
    stays("Look:\n```python\nx = 1  \n\n\n\ny  =  2\n```\nwhy?");
    stays("```\na  \r\nb\r\n```");
    stays("a\n```\nopen  ");
    stays("a\n~~~\ncode  \n```\n~~~~");
    stays("````md\n```\na  \n\n\n```\nb  \n````\nc");
    stays("- ```\n  a  \n\n\n  b\n  ```\n- c");
    stays("1. one\n\n    ```\n    a  \n    ```\n\n        x  \n\n\n        y\n\nz");
    stays("Like this:\n\n    a  b  \n\n\n\t\n    c");
    stays("Run `a\n  b  \nc` now.");
    stays("<pre>\na  \n\n\n\nb\n</pre>");
    stays("<pre>\na\n</prefix>  \n\n\n\nb  \n</PRE >");
    assert_eq!(safe("    ```\n\na  \n\n    ```\nb  \n```\nc  \n```"), "    ```\n\na  \n\n    ```\nb\n```\nc  \n```");
    assert_eq!(safe("a \n~~~\ncode  \n```\n~~~\nb  "), "a\n~~~\ncode  \n```\n~~~\nb");
    // Backticks that close on their line are no fence: what follows is prose.
    assert_eq!(safe("```a``` b\nc  \n\n\nd"), "```a``` b\nc\n\nd");
    // A marker in the code deep within is not its end.
    assert_eq!(safe("```\n      ```\na  \n```\nb  "), "```\n      ```\na  \n```\nb");
    // The blank lines after code are not code, a fence's blanks at its end are.
    assert_eq!(safe("    a  \n\n\n\nb"), "    a  \n\nb");
    assert_eq!(safe("a\n\n    b  \n\n"), "a\n\n    b  ");
}

#[test]
fn quotes_data_and_tables_stay() {
    stays("> a  \n> \n>   b  \nlazy  end\n\nc");
    stays("{\"a\":  1,  \n\n\n \"b\": [1,\t2]  \n}\nc");
    stays("[\n  {\"a\":  \"}  ]\"},  \n\n\n  2\n]\nc");
    stays("| a   | b |  \n|-----------|---|\n| 1   | 2 |");
    stays("a   |   b\n---------- | ---");
    stays("├── src  \n│   └── lib.rs  ");
    stays("Name\tAge\tCity\r\nAnn\t\t\r\nBob\t\tRome\n\nc");
    assert_eq!(safe("Name\tAge\nAnn\t\n\nAnn\t\nb"), "Name\tAge\nAnn\t\n\nAnn\nb", "no table any more");
    stays("- > a  \n  > b  \n\n1. - > c  \n\nd");
    assert_eq!(safe("[Note] a  \nb"), "[Note] a\nb", "a bracket alone is no data");
    assert_eq!(safe("{\"a\": 1}  \nb  \nc"), "{\"a\": 1}  \nb\nc");
}

#[test]
fn aggressive_closes_gaps_in_sentences_alone() {
    assert_eq!(aggressive("What    is   this?"), "What is this?");
    assert_eq!(aggressive("你好  世界"), "你好 世界");
    for text in [
        "  indented   line",
        "- item   one",
        "1.  item   one",
        "key   =   value",
        "say \"a   b\" now",
        "say 'a   b' now",
        "say 「a   b」 now",
        "run `a   b` now",
        "Name     Age\nAnn      32\nBob      45",
        "a\tb   c",
        "Ann,Bob   here",
        "2026-01-01   INFO   start",
        "\u{3000}\u{3000}第一段\u{3000}\u{3000}第二段",
        "a\u{a0}\u{a0}b",
    ] {
        stays(text);
    }
    assert_eq!(aggressive("It's   Ann's, 1,000   of   them"), "It's Ann's, 1,000 of them");
}

#[test]
fn aggressive_shortens_separators() {
    let line = "=".repeat(40);
    assert_eq!(aggressive(&format!("{line}\nPart one\n{line}\ntext")), "========\nPart one\n========\ntext");
    stays("--------\na");
    stays(&format!("```\n{line}\n```"));
    stays(&format!("a | b\n{line}"));
    stays(&format!("  {line}"));
}

#[test]
fn aggressive_drops_lines_said_twice() {
    let line = "Answer in one short sentence, please.";
    assert_eq!(aggressive(&format!("{line}\n{line}\n{line}\nNow.")), format!("{line}\nNow."));
    let chinese = "请用一句简短的中文回答下面的问题。";
    assert_eq!(aggressive(&format!("{chinese}\n{chinese}\n问题")), format!("{chinese}\n问题"));
    stays("- yes\n- yes\n- yes");
    stays("yes\nyes");
    let item = format!("- {line}");
    stays(&format!("{item}\n{item}"));
    stays(&format!("```\n{line}\n{line}\n```"));
    stays(&format!("> {line}\n> {line}"));
    stays(&format!("{line}\nNo.\n{line}"));
}

#[test]
fn aggressive_drops_paragraphs_said_twice() {
    assert_eq!(aggressive(&format!("{LONG}\n\n{OTHER}\n\n{LONG}\n\nWell?")), format!("{LONG}\n\n{OTHER}\n\nWell?"));
    assert_eq!(aggressive(&format!("{LONG}\n\n{LONG}")), LONG);
    // What a label, a heading, a title introduces stays.
    for label in ["Text two:", "# Two", "Text two", "第二：", "<two>"] {
        stays(&format!("Text one:\n\n{LONG}\n\n{label}\n\n{LONG}\n\nDo they differ?"));
    }
    // Short ones, lists, and those with code in them.
    let list = format!("- {LONG}\n- {OTHER}");
    for repeated in ["Be brief.", &list, &format!("```\n{LONG}\n```"), &format!("> {LONG}")] {
        stays(&format!("{repeated}\n\n{OTHER}\n\n{repeated}\n\nWell?"));
    }
}

#[test]
fn aggressive_drops_documents_given_twice() {
    let page = format!("Locks\n\n{LONG} {LONG}\n\n- one\n- two\n\n```\na  b\n\n\nc\n```\n\n| a | b |");
    assert_eq!(aggressive(&format!("{page}\n\n{OTHER}\n\n{page}\n\nWell?")), format!("{page}\n\n{OTHER}\n\nWell?"));

    let document = format!("<document>\n{LONG}\n\n```\na  b\n```\n</document>");
    assert_eq!(aggressive(&format!("{document}\n{document}\n\nWell?")), format!("{document}\n\nWell?"));
    let wrapped = |inside: &str| format!("<documents>\n{inside}\n</documents>\nWell?");
    assert_eq!(aggressive(&wrapped(&format!("{document}\n{document}"))), wrapped(&document));
    // The same words in another document are another document's words.
    let numbered = |n: u8| format!("<document index=\"{n}\">\n<text>\n{LONG}\n</text>\n</document>");
    stays(&format!("{}\n{}", numbered(1), numbered(2)));
    stays(&format!("<a>\n\n{LONG}\n\n</a>\n<b>\n\n{LONG}\n\n</b>"));
    stays(&format!("First:\n{document}\nSecond:\n{document}"));
    stays(&format!("{OTHER}\n{document}\n{OTHER}\n{document}\n{LONG}"));
}

#[test]
fn a_document_in_two_parts_goes_once() {
    let parts = |texts: &[&str]| Content::Parts(texts.iter().map(|text| Part::text(*text)).collect());
    let normalize = |content| {
        let message = Message { content: Some(content), ..Message::empty(Role::User) };
        Normalize::aggressive().apply(vec![message].into())[0].content.clone().unwrap()
    };
    assert_eq!(normalize(parts(&[LONG, OTHER, LONG, "Well?"])), parts(&[LONG, OTHER, "Well?"]));
    let labelled = parts(&["One:", LONG, "Two:", LONG]);
    assert_eq!(normalize(labelled.clone()), labelled);
    // A part that carries a mark stays, and so does what may belong to an image.
    let marked =
        Part::Text { text: LONG.to_owned(), extra: [("cache_control".to_owned(), 1.into())].into_iter().collect() };
    for part in [vec![marked], vec![Part::image("https://a.example/b.png"), Part::text(LONG)]] {
        let content = Content::Parts([Part::text(LONG), Part::text(OTHER)].into_iter().chain(part).collect());
        assert_eq!(normalize(content.clone()), content);
    }
    // Nobody knows how parts are joined, and code may go on in the next one.
    for texts in [["Say ", " \n\nnow"], ["```\na", "b  \n\n\n\n```"]] {
        assert_eq!(normalize(parts(&texts)), parts(&texts));
    }
    assert_eq!(normalize(parts(&["a  \nb ", "c  "])), parts(&["a\nb ", "c"]));
}

#[test]
fn only_the_roles_asked_for_are_touched() {
    let messages: Messages = vec![
        Message::user("a "),
        Message::assistant("b "),
        Message::tool("c", "d "),
        Message::system("e "),
        Message::new(Role::Developer, "f "),
    ]
    .into();
    let texts = |normalize: Normalize| -> Vec<_> {
        normalize.apply(messages.clone()).iter().map(|message| message.text()).collect()
    };
    for level in [Normalize::safe(), Normalize::aggressive()] {
        assert_eq!(texts(level), ["a", "b ", "d ", "e", "f"]);
        assert_eq!(texts(level.tool_results(true)), ["a", "b ", "d", "e", "f"]);
        let clean: Messages = vec![Message::user("a  \n\n\n\u{a0}\n"), Message::user(LONG)].into();
        let clean = level.apply(clean);
        assert!(level.apply(clean.clone()).ptr_eq(&clean), "what is in form is not copied");
    }
}

#[test]
fn never_across_messages() {
    let messages: Messages = vec![Message::user(LONG), Message::assistant("Yes."), Message::user(LONG)].into();
    assert!(Normalize::aggressive().apply(messages.clone()).ptr_eq(&messages));
}

#[test]
fn the_settings_say_the_level() {
    assert_eq!(Normalize::safe().settings(), "normalise, safe");
    assert_eq!(Normalize::aggressive().tool_results(true).settings(), "normalise, aggressive, tool results too");
}
