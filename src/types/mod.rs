//! Data only: requests, answers, streams and what travels with them.
//!
//! The shapes are those of the OpenAI chat wire, because nearly every endpoint speaks it. Enums are open (`Other`) and
//! structs carry an `extra` map, so that a field this version does not know survives a round trip.

mod controls;
mod embed;
pub(crate) mod embed_parts;
mod extensions;
mod message;
mod model;
mod open_enum;
mod request;
mod response;
mod response_format;
mod stream;
mod trace;
mod usage;
mod weight;

pub use controls::{CacheControl, Deadline, Deferrable, Priority, Scope, Tenant};
pub use embed::{EmbedInput, EmbedItem, EmbedRequest, EmbedResponse, Embedding, Vector};
pub use extensions::Extensions;
pub use message::{
    Content, Extra, FunctionCall, ImageDetail, ImageUrl, InputAudio, Message, Messages, Part, Role, ToolCall,
};
pub use model::{Cost, Price, PriceTable};
pub use request::{ChatBody, ChatRequest, FunctionDef, Stop, Tool, ToolChoice};
pub use response::{ChatCompletion, ChatResponse, Choice, FinishReason};
pub use response_format::ResponseFormat;
pub use stream::{
    Assembler, ChatChunk, ChatStream, ChunkChoice, Delta, Finish, FunctionCallDelta, StreamEvent, ToolCallDelta,
};
pub use trace::{HistoryTrace, Source, Trace};
pub use usage::{CompletionTokensDetails, PromptTokensDetails, RateLimits, Usage};

pub(crate) use weight::extra_weight;
