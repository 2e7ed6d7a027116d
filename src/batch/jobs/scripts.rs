//! What Redis does in one step, in Lua.
//!
//! A job is a hash: `p` its payload, `n` the attempts begun, `m` how many there may be, `t` when it was enqueued, `a` the
//! attempt begun last. In the stream, and in the sorted set of what is to wait, stands its id alone. All times are the
//! server's. All names of a queue have one hash tag, so they lie on one node of a cluster.

/// The consumer group.
pub(super) const GROUP: &str = "workers";

macro_rules! lua {
    ($($part:expr),+) => {
        concat!(
            "local time = redis.call('TIME')\n",
            "local now = time[1] * 1000 + math.floor(time[2] / 1000)\n",
            $($part),+
        )
    };
}

/// Whether this consumer holds the entry. A holder that was given up for dead must not decide about what another one has.
/// Where all data went, the group did too, and nobody holds anything; any other failure is the script's.
macro_rules! held {
    () => {
        "local held = redis.pcall('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1, ARGV[2])
if held.err and not string.find(held.err, 'NOGROUP', 1, true) then return held end
if held.err or #held == 0 then return {'lost'} end
"
    };
}

macro_rules! drop_entry {
    () => {
        "redis.call('XACK', KEYS[1], 'workers', ARGV[1]) redis.call('XDEL', KEYS[1], ARGV[1])\n"
    };
}

/// Into the dead letters, with its result or not at all: a script that is refused a command has done those before it.
/// Needs `job`, a list of p, n, m and t, and `reason`, `text`, `most`, `record`, `life`.
macro_rules! bury {
    () => {
        concat!(
            "redis.call('SET', KEYS[4], record, 'PX', life)\n",
            "local dead = redis.pcall('XADD', KEYS[3], 'MAXLEN', most, '*', 'j', ARGV[3], 'p', job[1], 'n', job[2] or '0',\n",
            "'m', job[3] or '1', 't', job[4] or '0', 'r', reason, 'e', text)\n",
            "if type(dead) == 'table' then redis.call('DEL', KEYS[4]) return dead end\n",
            "redis.call('DEL', KEYS[2])\n",
            drop_entry!()
        )
    };
}

/// Into the queue, in the order given. What is due in the same millisecond would be sorted by its id, so each job waits a
/// fraction of one longer than the one before: 1/2048, which a double still tells apart.
///
/// Keys: stream, delayed, and of each job its own and the name of its idempotency key. Values: how many may wait, how many
/// were given before these, and of each job its id, payload, attempts, delay, and the life of its idempotency key or 0.
/// Returns two words of each.
pub(super) const ENQUEUE: &str = lua!(
    "local waiting = redis.call('XLEN', KEYS[1]) + redis.call('ZCARD', KEYS[2])
local told = {}
for n = 0, (#ARGV - 2) / 5 - 1 do
local id, payload, attempts, delay, life = unpack(ARGV, 5 * n + 3, 5 * n + 7)
local job, once = KEYS[2 * n + 3], KEYS[2 * n + 4]
local known = life ~= '0' and redis.call('GET', once)
local word, name = 'new', id
if known then word, name = 'known', known
elseif waiting >= tonumber(ARGV[1]) then word = 'full'
else
waiting = waiting + 1
if life ~= '0' then redis.call('SET', once, id, 'PX', life) end
redis.call('HSET', job, 'p', payload, 'n', '0', 'm', attempts, 't', string.format('%d', now))
if delay == '0' then redis.call('XADD', KEYS[1], '*', 'j', id)
else redis.call('ZADD', KEYS[2], string.format('%.17g', now + tonumber(delay) + (tonumber(ARGV[2]) + n) / 2048), id) end
end
told[#told + 1] = word
told[#told + 1] = name
end
return told"
);

/// Moves what is due into the stream, and takes over what nobody has held for so long; what is no job, and was put there
/// by somebody else, is deleted then. Keys: stream, delayed. Values:
/// consumer, hold, how many to take over, where to look on. Returns where to look on, the time until the next is due (or
/// -1), and pairs of entry and id.
pub(super) const TEND: &str = lua!(
    "redis.pcall('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%d', now), 'LIMIT', 0, 256)) do
redis.call('ZREM', KEYS[2], id)
redis.call('XADD', KEYS[1], '*', 'j', id)
end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
local due = -1
if first[2] then due = math.max(0, math.ceil(tonumber(first[2]) - now)) end
local found = {ARGV[4], string.format('%d', due)}
if ARGV[3] == '0' then return found end
local taken = redis.call('XAUTOCLAIM', KEYS[1], 'workers', ARGV[1], ARGV[2], ARGV[4], 'COUNT', ARGV[3])
found[1] = taken[1]
for _, entry in ipairs(taken[2]) do
if entry and entry[2] then
local id = entry[2][2]
if #id == 32 and not string.find(id, '[^0-9a-f]') then
found[#found + 1] = entry[1]
found[#found + 1] = id
else
redis.call('XACK', KEYS[1], 'workers', entry[1])
redis.call('XDEL', KEYS[1], entry[1])
end
end
end
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], 'workers')) do
if consumer[4] == 0 and consumer[6] > 60000 + 10 * tonumber(ARGV[2]) then
redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', consumer[2])
end
end
return found"
);

/// Begins an attempt, once, however often it is asked; counted in one command, so that one that is refused does not count.
/// A job that has begun all its attempts and was never heard of again kills its workers. Keys: stream, job, dead, result.
/// Values: entry, consumer, id, dead letters at most, life of the result, the record of one that was abandoned, and what
/// differs from one attempt of a consumer to its next.
pub(super) const BEGIN: &str = concat!(
    held!(),
    "local job = redis.call('HMGET', KEYS[2], 'p', 'n', 'm', 't', 'a')
if not job[1] then ",
    drop_entry!(),
    "return {'gone'} end
local attempt = ARGV[1] .. ARGV[2] .. ARGV[7]
if job[5] ~= attempt then
if tonumber(job[2] or '0') >= tonumber(job[3] or '1') then
local reason, text, most, record, life = 'abandoned', 'no attempt came to an end', ARGV[4], ARGV[6], ARGV[5]
",
    bury!(),
    "return {'dead'}
end
job[2] = string.format('%d', tonumber(job[2] or '0') + 1)
redis.call('HSET', KEYS[2], 'n', job[2], 'a', attempt)
end
return {'go', job[1], tostring(job[2]), job[3] or '1'}"
);

/// The result is kept and the job is over, in this order. The first verdict stands. Keys: stream, job, result. Values:
/// entry, record, life of the result.
pub(super) const DONE: &str = concat!(
    "local first = redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3], 'NX')
redis.call('DEL', KEYS[2])
",
    drop_entry!(),
    "if first then return {'done'} end
return {'late'}"
);

/// Keys: stream, job, dead, result, delayed. Values: entry, consumer, id, dead letters at most, life of the result, record,
/// delay or -1 for none, reason, text.
pub(super) const FAIL: &str = lua!(
    held!(),
    "local job = redis.call('HMGET', KEYS[2], 'p', 'n', 'm', 't')
if not job[1] then ",
    drop_entry!(),
    "return {'gone'} end
if ARGV[7] ~= '-1' and tonumber(job[2] or '0') < tonumber(job[3] or '1') then
redis.call('ZADD', KEYS[5], string.format('%d', now + tonumber(ARGV[7])), ARGV[3])
",
    drop_entry!(),
    "return {'again'}
end
local reason, text, most, record, life = ARGV[8], ARGV[9], ARGV[4], ARGV[6], ARGV[5]
",
    bury!(),
    "return {'dead'}"
);

/// An attempt that is not to count, or was not begun: the worker ends. Keys: stream, job. Values: entry, consumer, id, by
/// how much the attempts begun change.
pub(super) const RELEASE: &str = concat!(
    held!(),
    "if redis.call('EXISTS', KEYS[2]) == 1 then
redis.call('HINCRBY', KEYS[2], 'n', ARGV[4])
redis.call('XADD', KEYS[1], '*', 'j', ARGV[3])
end
",
    drop_entry!(),
    "return {'released'}"
);

/// Keeps hold of these entries. Keys: stream. Values: consumer, entries. Returns those that others have.
pub(super) const EXTEND: &str = "local lost = {}
for n = 2, #ARGV do
if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[n], ARGV[n], 1, ARGV[1]) == 0 then lost[#lost + 1] = ARGV[n]
else redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[n], 'JUSTID') end
end
return lost";

/// Gives back all that a consumer holds, and forgets it. Keys: stream. Values: consumer.
pub(super) const LEAVE: &str = "local rows = redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 1000, ARGV[1])
for _, row in ipairs(rows) do
local entry = redis.call('XRANGE', KEYS[1], row[1], row[1])[1]
if entry then redis.call('XADD', KEYS[1], '*', 'j', entry[2][2]) end
redis.call('XACK', KEYS[1], 'workers', row[1])
redis.call('XDEL', KEYS[1], row[1])
end
if #rows < 1000 then redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', ARGV[1]) end
return {string.format('%d', #rows)}";

/// Keys: result, job. Returns the record, if there is one, and whether the job is still there.
pub(super) const RESULT: &str = "local record = redis.call('GET', KEYS[1])
if record then return {'record', record} end
if redis.call('EXISTS', KEYS[2]) == 1 then return {'waiting'} end
return {'unknown'}";

/// Keys: dead. Values: after which, how many. Returns entry, id, payload, attempts, reason and text of each.
pub(super) const DEAD: &str = "local found = {}
for _, entry in ipairs(redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])) do
local f = entry[2]
for _, value in ipairs({entry[1], f[2], f[4], f[6], f[12], f[14]}) do found[#found + 1] = value end
end
return found";

/// Keys: dead, stream, job, result. Values: entry, id.
pub(super) const REQUEUE: &str = lua!(
    "local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry or entry[2][2] ~= ARGV[2] then return {'gone'} end
local f = entry[2]
redis.call('HSET', KEYS[3], 'p', f[4], 'n', '0', 'm', f[8], 't', string.format('%d', now))
redis.call('DEL', KEYS[4])
redis.call('XADD', KEYS[2], '*', 'j', ARGV[2])
redis.call('XDEL', KEYS[1], ARGV[1])
return {'queued'}"
);

/// Keys: dead. Values: entry.
pub(super) const DISCARD: &str = "return {tostring(redis.call('XDEL', KEYS[1], ARGV[1]))}";

/// Keys: stream, delayed, dead. Returns ready, delayed, pending, dead and the age of the oldest that is ready, or -1.
pub(super) const STATS: &str = lua!(
    "local pending, last = 0, '0-0'
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if not groups.err then
for _, group in ipairs(groups) do
for n = 1, #group, 2 do
if group[n] == 'pending' then pending = group[n + 1] end
if group[n] == 'last-delivered-id' then last = group[n + 1] end
end
end
end
local due = redis.call('ZCOUNT', KEYS[2], '-inf', string.format('%d', now))
local oldest = -1
local waiting = redis.call('XRANGE', KEYS[1], '(' .. last, '+', 'COUNT', 1)[1]
if waiting then oldest = math.max(0, now - tonumber(string.match(waiting[1], '^%d+'))) end
local first = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if due > 0 then oldest = math.max(oldest, now - tonumber(first[2])) end
local function text(number) return string.format('%d', number) end
return {text(redis.call('XLEN', KEYS[1]) - pending + due), text(redis.call('ZCARD', KEYS[2]) - due), text(pending),
text(redis.call('XLEN', KEYS[3])), text(oldest)}"
);
