//! What is answered: the same for the same request, and counted by the counter.

use serde_json::Value;

use super::dice::{Dice, Draw};
use super::{schema, text};
use crate::tokens::TokenCounter;
use crate::types::{
    ChatBody, Choice, Content, Extra, FinishReason, FunctionCall, Message, ResponseFormat, Role, Tool, ToolCall,
    ToolChoice,
};

/// One choice, in the pieces in which it is streamed.
#[derive(Debug)]
pub(super) struct Draft {
    /// The id and name of the tool that is called; otherwise the pieces are text.
    pub(super) call: Option<(String, String)>,
    /// Of the text, or of the call's arguments.
    pub(super) pieces: Vec<String>,
    /// As the counter counts them, the called tool's name included.
    pub(super) tokens: u64,
    pub(super) finish: FinishReason,
}

/// How long answers are, in tokens: even between both ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lengths {
    pub(super) min: u32,
    pub(super) max: u32,
}

impl Lengths {
    fn draw(self, bits: u64) -> u64 {
        u64::from(self.min) + bits % (u64::from(self.max.saturating_sub(self.min)) + 1)
    }
}

/// All the choices of a request.
pub(super) fn drafts(body: &ChatBody, dice: &Dice, lengths: Lengths, counter: &dyn TokenCounter) -> Vec<Draft> {
    (0..u64::from(body.n.unwrap_or(1))).map(|index| draft(body, dice, index, lengths, counter)).collect()
}

fn draft(body: &ChatBody, dice: &Dice, index: u64, lengths: Lengths, counter: &dyn TokenCounter) -> Draft {
    let count = |text: &str| counter.text(&body.model, text);
    let words = dice.bits(Draw::Words, index);
    let limit = body.output_limit().map_or(u64::MAX, u64::from);
    let (call, mut pieces, wanted) = if let Some(tool) = required_tool(body) {
        let function = tool.function.as_ref();
        let arguments = schema::sample(function.and_then(|function| function.parameters.as_ref()), words);
        let id = format!("call_{:016x}", dice.bits(Draw::Id, index + 1));
        let name = function.map(|function| function.name.clone()).unwrap_or_default();
        (Some((id, name)), json_pieces(&arguments), u64::MAX)
    } else {
        match &body.response_format {
            Some(ResponseFormat::JsonObject) => (None, json_pieces(&schema::sample(None, words)), u64::MAX),
            Some(ResponseFormat::JsonSchema { json_schema }) => {
                (None, json_pieces(&schema::sample(json_schema.get("schema"), words)), u64::MAX)
            }
            _ => {
                let wanted = lengths.draw(dice.bits(Draw::Length, index));
                (None, text::prose(words, wanted), wanted)
            }
        }
    };
    let name_tokens = call.as_ref().map_or(0, |(_, name)| count(name));
    let whole = pieces.len();
    let room = limit.saturating_sub(name_tokens);
    let tokens = name_tokens + text::fit(&mut pieces, wanted.min(room), count);
    // A piece may be lost to a counter that counts more than the text was made for: only the limit is a cut.
    let cut = pieces.len() < whole && room < wanted;
    let finish = match &call {
        _ if cut => FinishReason::Length,
        Some(_) => FinishReason::ToolCalls,
        None => FinishReason::Stop,
    };
    Draft { call, pieces, tokens, finish }
}

/// The tool that must be called, if one must.
fn required_tool(body: &ChatBody) -> Option<&Tool> {
    let mut functions = body.tools.iter().filter(|tool| tool.function.is_some());
    match body.tool_choice.as_ref()? {
        ToolChoice::Mode(mode) if mode == "required" => functions.next(),
        ToolChoice::Mode(_) => None,
        ToolChoice::Named(choice) => {
            let name = choice.pointer("/function/name")?.as_str()?;
            functions.find(|tool| tool.function.as_ref().is_some_and(|function| function.name == name))
        }
    }
}

fn json_pieces(value: &Value) -> Vec<String> {
    value.to_string().split_inclusive([':', ',', ' ', '[', '{']).map(str::to_owned).collect()
}

impl Draft {
    /// As a choice of a whole answer.
    pub(super) fn into_choice(self, index: u32) -> Choice {
        let text = self.pieces.concat();
        let mut message = Message::empty(Role::Assistant);
        match self.call {
            Some((id, name)) => {
                let function = FunctionCall { name, arguments: text, extra: Extra::new() };
                message.tool_calls = vec![ToolCall { id, kind: "function".to_owned(), function, extra: Extra::new() }];
            }
            None => message.content = Some(Content::Text(text)),
        }
        Choice { index, message, finish_reason: Some(self.finish), logprobs: None, extra: Extra::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Tiktoken;
    use crate::types::ChatRequest;
    use serde_json::json;

    fn answer(request: &ChatRequest) -> Draft {
        let dice = Dice::of_request(1, 2);
        drafts(request, &dice, Lengths { min: 40, max: 80 }, &Tiktoken::new()).remove(0)
    }

    #[test]
    fn length_is_drawn_and_cut_at_the_limit() {
        let request = ChatRequest::new("gpt-5-mini").user("Why?");
        let whole = answer(&request);
        assert!((40..=80).contains(&whole.tokens));
        assert_eq!(whole.finish, FinishReason::Stop);
        let exact = answer(&request.clone().max_tokens(u32::try_from(whole.tokens).unwrap()));
        assert_eq!((exact.tokens, exact.finish), (whole.tokens, FinishReason::Stop));
        let cut = answer(&request.max_tokens(10));
        assert_eq!((cut.tokens, &cut.finish), (10, &FinishReason::Length));
    }

    #[test]
    fn json_formats_answer_valid_json() {
        let mut request = ChatRequest::new("gpt-5-mini").user("Why?");
        request.response_format = Some(ResponseFormat::JsonObject);
        let text = answer(&request).pieces.concat();
        assert!(serde_json::from_str::<Value>(&text).unwrap().is_object(), "{text}");
        let schema = json!({"type": "object", "properties": {"sky": {"type": "string"}}});
        request.response_format =
            Some(ResponseFormat::JsonSchema { json_schema: json!({"name": "s", "schema": schema}) });
        let text = answer(&request).pieces.concat();
        assert!(serde_json::from_str::<Value>(&text).unwrap()["sky"].is_string(), "{text}");
    }

    #[test]
    fn a_required_tool_is_called_and_an_optional_one_not() {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let mut request = ChatRequest::new("gpt-5-mini")
            .user("Why?")
            .tool(Tool::function("time", "", json!({})))
            .tool(Tool::function("weather", "", parameters));
        assert!(answer(&request).call.is_none());
        request.tool_choice = Some(ToolChoice::Mode("required".into()));
        assert_eq!(answer(&request).call.unwrap().1, "time");
        request.tool_choice = Some(ToolChoice::Named(json!({"type": "function", "function": {"name": "weather"}})));
        let draft = answer(&request);
        assert_eq!((draft.call.as_ref().unwrap().1.as_str(), &draft.finish), ("weather", &FinishReason::ToolCalls));
        let arguments = draft.into_choice(0).message.tool_calls[0].function.arguments.clone();
        assert!(serde_json::from_str::<Value>(&arguments).unwrap()["city"].is_string(), "{arguments}");
    }
}
