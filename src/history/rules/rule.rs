//! The rules, one by one.

/// Something a provider asks of a conversation. Which provider asks for which, and where it says so: the table at
/// [`Rules`](super::Rules).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rule {
    /// There is a message.
    Present,
    /// Roles are those of the chat API: `system`, `developer`, `user`, `assistant`, `tool`, `function`.
    KnownRoles,
    /// Neither `function` messages nor a `function_call`, the oldest form of tools.
    NoFunctions,
    /// Every message has content; an assistant's may have calls, a refusal or sound instead. An empty list is none.
    Content,
    /// No text is empty or blanks alone. The empty text of a tool's result, or beside calls, is none.
    TextNotBlank,
    /// Names of speakers have 1 to 64 characters, neither blanks nor any of `< | \ / >`; a `function` message has one.
    Names,
    /// Names of called functions have 1 to 64 letters, digits, `_` or `-`.
    FunctionNames,
    /// Each call of a tool is answered by a `tool` message, and they follow the calling message directly.
    CallsAnswered,
    /// Each `tool` message answers a call of the assistant message before it, and no other answers the same call.
    ResultsHaveCalls,
    /// Each call has an id, and no two calls of a message have the same.
    CallIds,
    /// No two calls of the whole conversation have the same id.
    CallIdsOnce,
    /// Ids of calls are letters, digits, `_` and `-`.
    CallIdsPlain,
    /// Ids of calls have at most 40 bytes.
    CallIdsShort,
    /// Instructions stand before everything else.
    InstructionsFirst,
    /// The user speaks, and first; instructions left out of account.
    UserFirst,
    /// No user message directly follows another.
    UsersApart,
    /// No assistant message directly follows another.
    AssistantsApart,
    /// An assistant's message at the end, which the model is to go on with, does not end in white space.
    PrefillTrimmed,
    /// The last to speak is not the assistant; instructions left out of account.
    UserLast,
}

impl Rule {
    /// All of them.
    pub(super) const ALL: [Self; 19] = [
        Self::Present,
        Self::KnownRoles,
        Self::NoFunctions,
        Self::Content,
        Self::TextNotBlank,
        Self::Names,
        Self::FunctionNames,
        Self::CallsAnswered,
        Self::ResultsHaveCalls,
        Self::CallIds,
        Self::CallIdsOnce,
        Self::CallIdsPlain,
        Self::CallIdsShort,
        Self::InstructionsFirst,
        Self::UserFirst,
        Self::UsersApart,
        Self::AssistantsApart,
        Self::PrefillTrimmed,
        Self::UserLast,
    ];

    pub(super) const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The rule in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Present => "a conversation has a message",
            Self::KnownRoles => "roles are system, developer, user, assistant, tool or function",
            Self::NoFunctions => "functions are called as tools",
            Self::Content => "a message has content",
            Self::TextNotBlank => "no text is empty or blank",
            Self::Names => r"a name has 1 to 64 characters and no blank or <|\/>",
            Self::FunctionNames => "a function's name has 1 to 64 letters, digits, _ or -",
            Self::CallsAnswered => "results follow the call of a tool directly, one for each id",
            Self::ResultsHaveCalls => "a tool's result answers a call of the assistant just before it, and alone",
            Self::CallIds => "each call of a tool has an id that no other call of the message has",
            Self::CallIdsOnce => "no two calls of a conversation have the same id",
            Self::CallIdsPlain => "a call's id is letters, digits, _ and -",
            Self::CallIdsShort => "a call's id has at most 40 bytes",
            Self::InstructionsFirst => "instructions stand before all else",
            Self::UserFirst => "the user speaks first",
            Self::UsersApart => "no user message follows another",
            Self::AssistantsApart => "no assistant message follows another",
            Self::PrefillTrimmed => "an assistant message at the end has no white space at its end",
            Self::UserLast => "the last to speak is not the assistant",
        }
    }

    /// What to do about a message that breaks it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Present => "say something",
            Self::KnownRoles => "give it one of these roles",
            Self::NoFunctions => "make it a tool message, and the function call before it a tool call",
            Self::Content | Self::TextNotBlank => "say something, or leave it out",
            Self::Names => "replace the other characters, or leave the name out",
            Self::FunctionNames => "name the function as its declaration does",
            Self::CallsAnswered => "add a tool message for each call right after it, or leave the call out",
            Self::ResultsHaveCalls => "put it after the message that calls it, or leave it out",
            Self::CallIds | Self::CallIdsOnce => "give the call, and its result, an id of its own",
            Self::CallIdsPlain => "replace the other characters, in the result too",
            Self::CallIdsShort => "give the call, and its result, a shorter id",
            Self::InstructionsFirst => "put it at the start, or let the user say it",
            Self::UserFirst => "put a user message before it",
            Self::UsersApart | Self::AssistantsApart => "join the two",
            Self::PrefillTrimmed => "trim its end",
            Self::UserLast => "add a user message after it, or leave it out",
        }
    }
}
