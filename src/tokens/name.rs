//! What a model is called, whoever serves it.

/// The name without what is before the last `/` and without `ft:`: `openai/gpt-4`, `models/gemini-2.5-pro` and
/// `ft:gpt-3.5-turbo:org::id` are what they say.
pub(super) fn bare(model: &str) -> &str {
    // Byte by byte: it is asked for each message, and to search so short a text costs more.
    let server = model.bytes().rposition(|byte| byte == b'/');
    let model = server.and_then(|at| model.get(at + 1..)).unwrap_or(model);
    model.strip_prefix("ft:").unwrap_or(model)
}

/// Whether a bare name begins so, in capitals or not: deployments are called what their owners like.
pub(super) fn begins(bare: &str, beginning: &str) -> bool {
    bare.get(..beginning.len()).is_some_and(|start| start.eq_ignore_ascii_case(beginning))
}

/// Whether a beginning says what [`bare`] leaves out, so that it is one of the whole name.
pub(super) fn is_of_whole(beginning: &str) -> bool {
    beginning.contains('/') || beginning.starts_with("ft:")
}
