//! Conversations made up from a seed.

use std::sync::Arc;

use crate::types::{Content, Extra, FunctionCall, Message, Messages, Part, Role, ToolCall};

/// Makes up conversations for tests: the same seed gives the same ones.
///
/// They have up to a dozen turns, tools called one by one and at once with results in any order, images, names, texts of a
/// word up to about a thousand, in a dozen scripts. What they say is taken from a small store of texts, so that a counter
/// which remembers has little to do.
///
/// ```
/// use sluicegate::{history::Rules, testing::Conversations};
/// let mut made_up = Conversations::new(7);
/// assert!(Rules::strict().check(&made_up.strict()).is_ok());
/// assert!(Rules::openai().check(&made_up.loose()).is_ok());
/// ```
#[derive(Debug, Clone)]
pub struct Conversations {
    random: fastrand::Rng,
    texts: Vec<String>,
    calls: usize,
}

const PHRASES: [&str; 16] = [
    "The quick brown fox jumps over the lazy dog. ",
    "天地玄黄，宇宙洪荒。日月盈昃，辰宿列张。",
    "いろはにほへと ちりぬるを。",
    "키스의 고유조건은 입술끼리 만나야 한다. ",
    "Съешь ещё этих мягких французских булок. ",
    "نص حكيم له سر قاطع وذو شأن عظيم. ",
    "דג סקרן שט בים מאוכזב. ",
    "ऋषियों को सताने वाले दुष्ट राक्षस। ",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า ",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. ",
    "Zażółć gęślą jaźń, e\u{301}te\u{301}. ",
    "👩‍👩‍👧‍👦🏳️‍🌈🇺🇦 👍🏽 ",
    "{\"key\": [1, 2.5, null], \"nested\": {\"a\": true}} ",
    "fn main() { let x = \"text\"; }\n\n\t// end\n",
    "\u{200b}\u{feff}\u{0}<|endoftext|> ",
    "aaaaaaaaaaaaaaaaaaaaaaaa 0000000000 ",
];

impl Conversations {
    /// From this seed.
    pub fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let texts = (0..80).map(|number| {
            // A few are long.
            let phrases = if number % 16 == 0 { random.usize(40..120) } else { random.usize(1..8) };
            (0..phrases).filter_map(|_| random.choice(PHRASES)).collect()
        });
        let texts = texts.collect();
        Self { random, texts, calls: 0 }
    }

    /// One that keeps every rule: [`Rules::strict`](crate::history::Rules::strict).
    pub fn strict(&mut self) -> Messages {
        let mut messages = Vec::new();
        if self.chance(80) {
            messages.push(Message::system(self.text()));
        }
        for _ in 0..self.random.usize(0..12) {
            messages.push(self.user());
            self.answer(&mut messages);
        }
        messages.push(self.user());
        if self.chance(25) {
            self.tools(&mut messages);
        }
        messages.into()
    }

    /// One that OpenAI takes: instructions in the middle, several users or assistants in a row, empty texts, ids that are
    /// used again, an assistant first or last.
    pub fn loose(&mut self) -> Messages {
        let mut messages = Vec::new();
        if self.chance(10) {
            messages.push(Message::assistant(self.text()));
        }
        for _ in 0..self.random.usize(1..12) {
            if self.chance(30) {
                let text = self.text();
                messages.push(if self.chance(50) {
                    Message::system(text)
                } else {
                    Message::new(Role::Developer, text)
                });
            }
            if self.chance(90) {
                messages.push(self.user());
            }
            if self.chance(15) {
                messages.push(Message::user(if self.chance(30) { String::new() } else { self.text() }));
            }
            if self.chance(10) {
                self.calls = 0;
            }
            if self.chance(90) {
                self.answer(&mut messages);
            }
            if self.chance(10) {
                messages.push(Message::assistant(if self.chance(50) { String::new() } else { self.text() }));
            }
        }
        if self.chance(80) || messages.is_empty() {
            messages.push(self.user());
        }
        messages.into()
    }

    /// One that came broken: messages lost, doubled, out of place, emptied, or of another role.
    pub fn broken(&mut self) -> Messages {
        let mut messages: Vec<_> = self.loose().iter().map(|message| (**message).clone()).collect();
        for _ in 0..self.random.usize(1..6) {
            self.damage(&mut messages);
        }
        messages.into()
    }

    fn damage(&mut self, messages: &mut Vec<Message>) {
        let (at, to) = (self.random.usize(..=messages.len()), self.random.usize(..=messages.len()));
        let kind = self.random.u8(..12);
        if kind == 0 || at >= messages.len() {
            messages.insert(at, Message::tool(format!("call_{}", self.random.u8(..4)), self.text()));
            return;
        }
        match kind {
            1 => drop(messages.remove(at)),
            2 => messages.insert(to, messages[at].clone()),
            3 => {
                let message = messages.remove(at);
                messages.insert(to.min(messages.len()), message);
            }
            4 => messages[at].content = None,
            5 => messages[at].content = Some(Content::Text(" \n".to_owned())),
            6 => messages[at].content = Some(Content::Parts(vec![Part::text(""), Part::text("a")])),
            7 => messages[at].tool_call_id = None,
            8 => messages[at].name = Some("a name/".to_owned()),
            9 => {
                for call in &mut messages[at].tool_calls {
                    call.id = ["", "same", "look:0", "an id that is much longer than forty bytes are"]
                        [self.random.usize(..4)]
                    .to_owned();
                    call.function.name.push('.');
                }
            }
            10 => {
                let roles = ["human", "ai", "ipython", "function", "tool", "user", "assistant", "system"];
                messages[at].role = Role::from(roles[self.random.usize(..roles.len())]);
            }
            _ => {
                let call = serde_json::json!({"name": "look", "arguments": "{}"});
                messages[at].extra = Extra::from_iter([("function_call".to_owned(), call)]);
            }
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.u32(..100) < percent
    }

    fn text(&mut self) -> String {
        self.random.choice(&self.texts).cloned().unwrap_or_default()
    }

    fn user(&mut self) -> Message {
        let mut message = Message::user(self.text());
        if self.chance(15) {
            let image = Part::image("https://example.com/picture.png");
            message.content = Some(Content::Parts(vec![Part::text(self.text()), image]));
        }
        if self.chance(10) {
            message.name = Some("Zoë".to_owned());
        }
        message
    }

    /// Tools, maybe, and what the assistant says.
    fn answer(&mut self, messages: &mut Vec<Message>) {
        while self.chance(30) {
            self.tools(messages);
        }
        messages.push(Message::assistant(self.text()));
    }

    fn tools(&mut self, messages: &mut Vec<Message>) {
        let mut caller = Message::empty(Role::Assistant);
        let mut results = Vec::new();
        let calls = if self.chance(2) { 70 } else { self.random.usize(1..4) };
        for _ in 0..calls {
            self.calls += 1;
            let id = format!("call_{}", self.calls);
            let function =
                FunctionCall { name: "look".to_owned(), arguments: "{\"at\": 1}".to_owned(), extra: Extra::new() };
            results.push(Message::tool(&id, self.text()));
            caller.tool_calls.push(ToolCall { id, kind: "function".to_owned(), function, extra: Extra::new() });
        }
        if self.chance(30) {
            self.random.shuffle(&mut results);
        }
        if self.chance(30) {
            caller.content = Some(Content::Text(if self.chance(50) { String::new() } else { self.text() }));
        }
        messages.push(caller);
        messages.append(&mut results);
    }
}

/// A conversation and what comes after it.
pub(super) fn joined(first: &Messages, second: &[Arc<Message>]) -> Messages {
    first.iter().chain(second).cloned().collect()
}
