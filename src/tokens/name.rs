//! What a model is called, whoever serves it.

/// The name without what is before the last `/` and without `ft:`: `openai/gpt-4`, `models/gemini-2.5-pro` and
/// `ft:gpt-3.5-turbo:org::id` are what they say.
pub(super) fn bare(model: &str) -> &str {
    let model = model.rsplit('/').next().unwrap_or(model);
    model.strip_prefix("ft:").unwrap_or(model)
}
