use super::*;
use crate::types::{ChatCompletion, FunctionCall, Role, Tenant, ToolCall};

fn talk(messages: usize) -> Conversation {
    let mut talk = Conversation::new(ChatRequest::new("gpt-5-mini").system("rules"));
    for n in 1..messages {
        talk.push(Message::new(if n % 2 == 1 { Role::User } else { Role::Assistant }, n.to_string()));
    }
    talk
}

/// As the layer does: keeps the instructions and the last so many messages.
fn keep(request: &ChatRequest, last: usize) {
    let sent = request.extensions.get::<Sent>().unwrap();
    if sent.is_of(request) {
        let first = request.messages.len() - last;
        sent.set(Carry::of(super::super::fit::from(&request.messages, first)));
    }
}

fn texts(messages: &[Arc<Message>]) -> Vec<String> {
    messages.iter().map(|message| message.text()).collect()
}

fn shown(talk: &mut Conversation) -> Vec<String> {
    let shown = texts(&talk.request().messages);
    assert_eq!(shown.len(), talk.active_len());
    shown
}

#[test]
fn the_next_request_shows_what_was_kept_and_what_came_since() {
    let mut talk = talk(100);
    let request = talk.request();
    assert_eq!(request.messages.len(), 100);
    talk.user("meanwhile");
    keep(&request, 2);
    talk.user("then");
    assert_eq!(shown(&mut talk), ["rules", "98", "99", "meanwhile", "then"]);
    assert_eq!((talk.len(), talk.messages()[1].text().as_str()), (102, "1"), "the log is whole");
}

#[test]
fn a_late_request_does_not_undo_a_later_one() {
    let mut talk = talk(10);
    let early = talk.request();
    talk.user("more");
    let late = talk.request();
    keep(&late, 1);
    keep(&early, 5);
    assert_eq!(shown(&mut talk), ["rules", "more"]);
    keep(&early, 5);
    assert_eq!(shown(&mut talk), ["rules", "more"], "nor after the later one was heard");
}

#[test]
fn a_request_changed_on_its_way_leaves_no_mark() {
    let mut talk = talk(10);
    let changes: [fn(&mut ChatRequest); 5] = [
        |request| request.messages.push(Message::system("context")),
        |request| request.model = "smaller".into(),
        |request| request.max_completion_tokens = Some(9),
        |request| request.tools.push(crate::types::Tool::function("f", "", serde_json::json!({}))),
        |request| request.response_format = Some(crate::types::ResponseFormat::JsonObject),
    ];
    for change in changes {
        let mut request = talk.request();
        change(&mut request);
        keep(&request, 1);
        assert_eq!(talk.active_len(), 10);
    }
    let mut request = talk.request();
    request.extensions.insert(Tenant("acme".into()));
    request.temperature = Some(0.5);
    keep(&request, 1);
    assert_eq!(talk.active_len(), 2, "what does not change how much fits is no matter");
}

#[test]
fn another_template_shows_it_all_and_hears_no_earlier_request() {
    let mut talk = talk(10);
    let early = talk.request();
    keep(&early, 1);
    assert_eq!(talk.active_len(), 2);
    talk.set_model("gpt-5");
    assert_eq!((talk.active_len(), talk.request().model.as_str()), (10, "gpt-5"));
    keep(&early, 1);
    assert_eq!(talk.active_len(), 10);
    keep(&talk.request(), 1);
    let other = talk.template().clone().user("left aside").with(Tenant("acme".into()));
    talk.set_template(other);
    assert_eq!((talk.len(), talk.active_len()), (10, 10));
    assert_eq!(talk.request().extensions.get::<Tenant>().unwrap().0, "acme");
    keep(&talk.request(), 1);
    talk.controls_mut().insert(Tenant("other".into()));
    assert_eq!(talk.active_len(), 2, "controls change nothing about the prompt");
}

#[test]
fn going_back_keeps_what_still_holds() {
    let mut talk = talk(10);
    keep(&talk.request(), 3);
    talk.user("a");
    talk.user("b");
    talk.truncate(99);
    assert_eq!((talk.len(), talk.active_len()), (12, 6));
    talk.truncate(11);
    assert_eq!(shown(&mut talk), ["rules", "7", "8", "9", "a"]);
    let before = talk.request();
    talk.truncate(10);
    talk.user("c");
    keep(&before, 1);
    assert_eq!(shown(&mut talk), ["rules", "7", "8", "9", "c"], "what was taken back does not come again");
    talk.truncate(5);
    assert_eq!(shown(&mut talk), ["rules", "1", "2", "3", "4"], "before what was kept: all of it");
    talk.truncate(0);
    assert!(talk.is_empty() && talk.active_len() == 0);
}

#[test]
fn an_answer_is_said_as_it_came() {
    let mut completion = ChatCompletion::text("m", "hello");
    let message = &mut completion.choices[0].message;
    let function = FunctionCall { name: "f".into(), arguments: "{}".into(), ..FunctionCall::default() };
    message.tool_calls =
        vec![ToolCall { id: "c".into(), kind: "function".into(), function, extra: Default::default() }];
    message.extra.insert("reasoning_content".into(), "because".into());
    message.refusal = Some("partly".into());
    let expected = message.clone();
    let mut talk = talk(2);
    talk.answered(&completion.into());
    talk.tool("c", "42");
    talk.answered(&ChatResponse::new(ChatCompletion::default()));
    assert_eq!(talk.len(), 4);
    assert_eq!(*talk.messages()[2], expected);
    assert_eq!(talk.messages()[3].tool_call_id.as_deref(), Some("c"));
}

#[test]
fn a_copy_goes_its_own_way() {
    let mut talk = talk(10);
    let request = talk.request();
    keep(&request, 1);
    let mut copy = talk.clone();
    assert_eq!(copy.active_len(), 2);
    copy.user("only here");
    talk.user("only there");
    keep(&talk.request(), 1);
    assert_eq!(shown(&mut copy), ["rules", "9", "only here"]);
    let mut nested = Conversation::new(request);
    keep(&nested.request(), 1);
    nested.user("its own");
    assert_eq!(shown(&mut talk), ["rules", "only there"], "a request taken for a template brings no note with it");
}

fn stored(talk: &Conversation) -> serde_json::Value {
    serde_json::to_value(talk).unwrap()
}

fn loaded(value: serde_json::Value) -> serde_json::Result<Conversation> {
    serde_json::from_value(value)
}

#[test]
fn it_is_stored_and_taken_up_again() {
    let mut talk = talk(10);
    talk.set_template(talk.template().clone().temperature(0.5).with(Tenant("acme".into())));
    let request = talk.request();
    let sent = request.extensions.get::<Sent>().unwrap();
    // Part of it of the policy's own making, and a gap.
    let own = Arc::new(Message::system("what was said before"));
    let [rules, seven, nine] = [0, 7, 9].map(|at| Arc::clone(&request.messages[at]));
    let note = serde_json::json!({"upto": 6});
    sent.set(Carry::of([rules, own, seven, nine].into_iter().collect()).noted(note.clone()).summarized());
    talk.user("since");
    let value = stored(&talk);
    let own = serde_json::json!({"role": "system", "content": "what was said before"});
    assert_eq!(value["kept"], serde_json::json!([[0, 1], own, [7, 8], [9, 10]]));
    assert_eq!((&value["version"], &value["upto"]), (&2.into(), &10.into()));
    assert_eq!((&value["note"], &value["summarized"]), (&note, &true.into()));

    let mut again = loaded(value.clone()).unwrap();
    assert_eq!(stored(&again), value);
    assert_eq!(shown(&mut again), ["rules", "what was said before", "7", "9", "since"]);
    assert_eq!((again.len(), again.request().temperature), (11, Some(0.5)));
    assert!(again.template().extensions.is_empty(), "controls are not stored");
    let carried = |talk: &mut Conversation| {
        let request = talk.request();
        let carry =
            request.extensions.get::<Sent>().unwrap().carried().map(|carry| (carry.summarized, carry.note.clone()));
        carry.filter(|(summarized, _)| *summarized).map(|(_, note)| note)
    };
    assert_eq!(carried(&mut again), Some(note.clone()));
    assert_eq!(carried(&mut again.clone()), Some(note.clone()));
    again.user("and");
    again.truncate(10);
    assert_eq!(shown(&mut again), ["rules", "what was said before", "7", "9"]);
    assert_eq!(carried(&mut again), Some(note));
    let mut behind = again.clone();
    behind.truncate(9);
    again.show_all();
    for talk in [&mut again, &mut behind] {
        assert_eq!((talk.active_len(), carried(talk)), (talk.len(), None), "all, and no note on less");
    }
}

#[test]
fn the_form_without_a_note_is_still_read() {
    let messages = ["rules", "1", "2", "3"].map(Message::user);
    let form = serde_json::json!({
        "version": 1, "template": {"model": "m", "messages": []}, "messages": messages, "kept": [[0, 1], [2, 3]], "upto": 3,
    });
    assert_eq!(shown(&mut loaded(form).unwrap()), ["rules", "2", "3"]);
}

#[test]
fn what_cannot_be_read_is_refused_and_said() {
    let refused = |change: fn(&mut serde_json::Value)| {
        let mut value = stored(&talk(3));
        change(&mut value);
        loaded(value).unwrap_err().to_string()
    };
    assert!(refused(|value| value["version"] = 3.into()).contains("form 3; this version reads forms 1 to 2"));
    assert!(refused(|value| *value = serde_json::json!({"version": 4, "new": {}})).contains("form 4"));
    assert!(refused(|value| *value = serde_json::json!([])).contains("says no version"));
    assert!(refused(|value| value["kept"] = serde_json::json!([[1, 4]])).contains("damaged"));
    assert!(refused(|value| value["kept"] = serde_json::json!([[2, 1]])).contains("damaged"));
    assert!(refused(|value| value["upto"] = 4.into()).contains("damaged"));
    assert!(refused(|value| value["messages"] = 4.into()).contains("invalid type"));
}

#[test]
fn what_is_said_is_not_shown_in_logs() {
    let mut talk = talk(3);
    talk.user("secret");
    let text = format!("{talk:?} {:?}", talk.request().extensions);
    assert!(!text.contains("secret") && text.contains("gpt-5-mini"), "{text}");
}
