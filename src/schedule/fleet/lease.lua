-- One trip of one process: what it has used and still holds of each limit, and what it gets.
--
-- KEYS: the members, then a limit each. ARGV: process, its settings, "1" if it leaves, how long a lease holds and how
-- long a process is known (microseconds); then for each limit eleven numbers. Every process is a field of each limit:
-- "out expiry seen since need limit burst".
--
-- What must hold: level + what all hold never exceeds the burst, and grows by the limit's rate only. So no stretch of the
-- period sees more used than the limit and one burst, whoever uses it.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local me, settings, leaves = ARGV[1], ARGV[2], ARGV[3] == '1'
local term, known_for = tonumber(ARGV[4]), tonumber(ARGV[5])
local function text(...)
  local words = {...}
  for place, word in ipairs(words) do words[place] = string.format('%.0f', word) end
  return table.concat(words, ' ')
end

local processes, differing = 1, 0
local members = redis.call('HGETALL', KEYS[1])
for place = 1, #members, 2 do
  local seen, theirs = string.match(members[place + 1], '^(%d+) (.*)$')
  if members[place] ~= me then
    if not seen or now - tonumber(seen) > known_for then
      redis.call('HDEL', KEYS[1], members[place])
    else
      processes = processes + 1
      if theirs ~= settings then differing = differing + 1 end
    end
  end
end
if leaves then
  redis.call('HDEL', KEYS[1], me)
else
  redis.call('HSET', KEYS[1], me, text(now) .. ' ' .. settings)
  redis.call('PEXPIRE', KEYS[1], 60000)
end

local reply = {processes, differing}
for limit = 2, #KEYS do
  local given = {}
  for word = 1, 11 do given[word] = tonumber(ARGV[5 + (limit - 2) * 11 + word]) end
  local amount, period, burst, known = given[1], given[2], given[3], given[4]
  local used, holding, charge, fill, need, want = given[5], given[6], given[7], given[8], given[9], given[10]

  local level, at, full
  local mine = {out = 0, since = 0}
  local others, waiting = 0, {}
  local fields = redis.call('HGETALL', KEYS[limit])
  for place = 1, #fields, 2 do
    local name, value = fields[place], fields[place + 1]
    if name == 'level' then level = tonumber(value)
    elseif name == 'at' then at = tonumber(value)
    elseif name == 'full' then full = tonumber(value)
    else
      local out, expiry, seen, since, needs, most, bursts =
        string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)$')
      out, since, seen = tonumber(out), tonumber(since), tonumber(seen)
      if now >= tonumber(expiry) then out = 0 end
      if name == me then
        mine = {out = out, since = since}
      elseif now - seen > known_for then
        redis.call('HDEL', KEYS[limit], name)
      else
        others = others + out
        -- Where they differ, the lowest holds.
        amount, burst = math.min(amount, tonumber(most)), math.min(burst, tonumber(bursts))
        if since > 0 and now - seen < term then waiting[#waiting + 1] = {since, tonumber(needs)} end
      end
    end
  end
  if not level then
    -- One that somebody has used before was lost, and nobody knows how full it was.
    level, at, full = burst, now, now
    if known == 1 then level = 0 end
  end

  -- A clock that went back, as another server's may have, stands still.
  if at > now then at = now end
  local room = burst - level - others - mine.out
  local more = math.floor((now - at) * amount / period)
  if more > 0 and more >= room then
    level, at, full = level + math.max(room, 0), now, full + 1
  elseif more > 0 then
    level, at = level + more, at + math.ceil(more * period / amount)
  end

  level = level + mine.out - used - holding
  if charge > 0 then
    level = level - charge
  elseif charge < 0 and fill == full then
    level = math.min(level - charge, math.max(level, burst - others - holding))
  end

  local grant, wait, since = 0, 0, 0
  local share = math.max(1, math.floor(burst / (2 * processes)))
  -- When there is little, a busy process waits for what is worth a trip.
  local batch = math.min(given[11], share)
  local ahead = 0
  for _, other in ipairs(waiting) do
    if need == 0 or mine.since == 0 or other[1] < mine.since then ahead = ahead + other[2] end
  end
  if need > 0 then
    -- What is larger than the bucket starts when that is full, and leaves a debt.
    local enough = math.min(math.max(need, batch), math.max(1, burst - others - holding))
    if ahead == 0 and level >= enough then
      grant = math.max(need, math.min(want, share, level))
    else
      since = mine.since > 0 and mine.since or now
      need = enough
      wait = math.max(math.ceil((ahead + need - level) * period / amount) - (now - at), 0)
    end
  elseif want > 0 and ahead == 0 then
    if level >= batch then
      grant = math.max(0, math.min(want, share - holding, level))
    else
      wait = math.ceil((batch - level) * period / amount)
    end
  end
  level = level - grant

  if leaves then
    redis.call('HDEL', KEYS[limit], me)
  else
    redis.call('HSET', KEYS[limit], me,
      text(holding + grant, now + term, now, since, since > 0 and need or 0, given[1], given[3]))
  end
  redis.call('HSET', KEYS[limit], 'level', text(level), 'at', text(at), 'full', text(full))
  local empty = math.max(burst - level, 0) * period / amount / 1000
  redis.call('PEXPIRE', KEYS[limit], text(math.ceil(empty) + 60000))
  for _, number in ipairs({grant, wait, full, amount, burst}) do reply[#reply + 1] = number end
end
return reply
