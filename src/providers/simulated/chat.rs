//! Chats: what is checked, asked for and answered.

use std::time::UNIX_EPOCH;

use super::answer::{self, Draft};
use super::call::{Call, Demand, FRONT_DOOR};
use super::dice::{Dice, Draw};
use super::playback::Playback;
use super::{Simulated, errors};
use crate::env::after;
use crate::error::Result;
use crate::types::{ChatBody, ChatChunk, ChatCompletion, ChatRequest, ChatResponse, ChatStream, Extra, Usage};

/// Choices per request at most, as at OpenAI.
const MAX_CHOICES: u32 = 128;

/// A chat that was let in.
struct Admitted {
    call: Call,
    drafts: Vec<Draft>,
    usage: Usage,
    dice: Dice,
    id: String,
    created: u64,
}

impl Simulated {
    /// A whole answer.
    pub(super) async fn answer(&self, request: &ChatRequest) -> Result<ChatResponse> {
        let mut chat = self.admit_chat(request).await?;
        self.play_error(&mut chat.call, &chat.dice).await?;
        chat.call.first_chunk().await;
        chat.call.wait_until(chat.call.done_at()).await;
        chat.call.complete();
        drop(chat.call);
        let choices = chat.drafts.into_iter().zip(0..).map(|(draft, index)| draft.into_choice(index)).collect();
        let completion = ChatCompletion {
            id: chat.id,
            object: "chat.completion".to_owned(),
            created: chat.created,
            model: request.model.clone(),
            choices,
            usage: Some(chat.usage),
            extra: Extra::new(),
        };
        Ok(ChatResponse::new(completion).with(self.rate_limits()))
    }

    /// A streamed answer.
    pub(super) async fn stream(&self, request: &ChatRequest) -> Result<ChatStream> {
        let arrived = self.account.env.now();
        let mut chat = self.admit_chat(request).await?;
        self.play_error(&mut chat.call, &chat.dice).await?;
        chat.call.wait_until(after(arrived, FRONT_DOOR).min(chat.call.first_at)).await;
        let head = ChatChunk {
            id: chat.id,
            object: "chat.completion.chunk".to_owned(),
            created: chat.created,
            model: request.model.clone(),
            ..ChatChunk::default()
        };
        let breaks = chat.dice.happens(Draw::StreamFault, self.account.settings.stream_fault_rate);
        let playback = Playback::new(chat.call, &head, chat.drafts, chat.usage);
        let playback = if breaks { playback.break_off(&chat.dice) } else { playback };
        Ok(playback.into_stream().with(self.rate_limits()))
    }

    async fn admit_chat(&self, body: &ChatBody) -> Result<Admitted> {
        let order = self.account.arrive();
        check(body)?;
        let settings = &self.account.settings;
        let counter = &**self.account.env.counter();
        let dice = self.dice(body);
        let input = counter.request(body);
        let drafts = answer::drafts(body, &dice, settings.lengths, counter);
        let most = u64::from(body.output_limit().unwrap_or(settings.lengths.max)) * u64::from(body.n.unwrap_or(1));
        let output = drafts.iter().map(|draft| draft.tokens).sum();
        let demand = Demand {
            input,
            // A tool call or JSON may be longer than the longest text.
            most_output: most.max(output),
            output,
            longest: drafts.iter().map(|draft| draft.tokens).max().unwrap_or(0),
            prefixes: settings.prompt_cache.map_or_else(Vec::new, |cache| cache.prefixes(body, input, counter)),
        };
        let dice = dice.of_call(order);
        let call = self.account.admit(&body.model, demand, &dice).await?;
        let usage = match settings.prompt_cache {
            Some(_) => Usage::new(input, output).with_cached(call.cached),
            None => Usage::new(input, output),
        };
        let id = format!("chatcmpl-{:016x}", dice.bits(Draw::Id, 0));
        let created = self.account.env.wall().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
        Ok(Admitted { call, drafts, usage, dice, id, created })
    }
}

fn check(body: &ChatBody) -> Result<()> {
    body.check().map_err(|error| error.with_status(400))?;
    if let Some(n) = body.n.filter(|n| *n > MAX_CHOICES) {
        return Err(errors::invalid("n", n, "ask for at most 128 choices"));
    }
    match body.output_limit() {
        Some(0) => Err(errors::invalid("max_completion_tokens", 0, "allow at least one token, or leave it out")),
        _ => Ok(()),
    }
}
