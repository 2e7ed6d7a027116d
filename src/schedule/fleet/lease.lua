-- One trip of one process: what it has used and still holds of each limit, and what it gets; what the provider said of
-- them, and which gates it closed.
--
-- KEYS: the members, the closed gates, then a limit each. ARGV: process, its settings, "1" if it leaves, how long a lease
-- holds and how long a process is known (microseconds), how many gates it closed; three words for each of these; then for
-- each limit twenty numbers. Every process is a field of each limit: "out expiry seen since need limit worth follows told
-- of", of which the last two are the sum of what it has told since its last trip that it knows to have been made, and when
-- that was: a trip whose reply was lost tells it again.
--
-- What must hold: level + what all hold never exceeds the burst, and grows by the limit's rate only. So no stretch of the
-- period sees more used than the limit and one burst, whoever uses it.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local me, settings, leaves = ARGV[1], ARGV[2], ARGV[3] == '1'
local term, known_for, closings = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- A limit is raised when nobody has stated the lower one for so long, and what was stated is remembered for so long.
local settled, remembered = 50000000, 3600000
-- No gate stays closed and no word is in doubt for longer, whatever is said.
local longest, minute = 86400000000, 60000000
local function text(...)
  local words = {...}
  for place, word in ipairs(words) do words[place] = string.format('%.0f', word) end
  return table.concat(words, ' ')
end

-- By a clock that went back, too: one who is there says so anew.
local function is_gone(seen)
  return math.abs(now - seen) > known_for
end

local processes, differing = 1, 0
local members = redis.call('HGETALL', KEYS[1])
for place = 1, #members, 2 do
  local seen, theirs = string.match(members[place + 1], '^(%d+) (.*)$')
  if members[place] ~= me then
    if not seen or is_gone(tonumber(seen)) then
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

-- A gate is "opens wait strikes process". The latest time holds, so saying it twice changes nothing.
local function closed(model, value)
  local opens, wait, strikes, who = string.match(value or '', '^(%d+) (%d+) (%d+) (.*)$')
  if not opens then return 0, 0, '' end
  opens, wait, strikes = tonumber(opens), math.min(tonumber(wait), longest), tonumber(strikes)
  if opens > now + wait then
    -- Never longer than was said: the clock went back. Kept, or it would be so long from every trip on.
    opens = now + wait
    redis.call('HSET', KEYS[2], model, text(opens, wait, strikes) .. ' ' .. who)
  end
  return opens, strikes, who
end
for closing = 1, closings do
  local first = 6 + (closing - 1) * 3
  local model, wait, strikes = ARGV[first + 1], math.min(tonumber(ARGV[first + 2]), longest), tonumber(ARGV[first + 3])
  local opens, theirs = closed(model, redis.call('HGET', KEYS[2], model))
  if now + wait > opens then
    if opens > now then strikes = math.max(strikes, theirs) end
    redis.call('HSET', KEYS[2], model, text(now + wait, wait, strikes) .. ' ' .. me)
  end
end
local gates, latest, gone = {}, 0, redis.call('HGETALL', KEYS[2])
for place = 1, #gone, 2 do
  local opens, strikes, who = closed(gone[place], gone[place + 1])
  latest = math.max(latest, opens)
  if opens <= now then
    redis.call('HDEL', KEYS[2], gone[place])
  elseif who ~= me then
    for _, word in ipairs({gone[place], opens - now, strikes, opens}) do gates[#gates + 1] = word end
  end
end
if closings > 0 and latest > now then redis.call('PEXPIRE', KEYS[2], text(math.ceil((latest - now) / 1000))) end

local reply = {processes, differing}
for limit = 3, #KEYS do
  local given = {}
  for word = 1, 20 do given[word] = tonumber(ARGV[6 + closings * 3 + (limit - 3) * 20 + word]) end
  local amount, period, worth, known = given[1], given[2], given[3], given[4]
  local used, holding, charge, fill, need, want = given[5], given[6], given[7], given[8], given[9], given[10]
  local follows, says, heard = given[12] == 1, given[13], now - given[14]

  local state = {}
  local mine = {out = 0, since = 0, told = 0}
  local others, waiting = 0, {}
  -- The lowest of those that do not follow the provider.
  local firm = not follows and amount or math.huge
  local fields = redis.call('HGETALL', KEYS[limit])
  for place = 1, #fields, 2 do
    local name, value = fields[place], fields[place + 1]
    local out, expiry, seen, since, needs, most, worths, following, told, of =
      string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d) (%-?%d+) (%d+)$')
    if not out then
      state[name] = tonumber(value)
    else
      out, since, seen = tonumber(out), math.min(tonumber(since), now), tonumber(seen)
      if now >= tonumber(expiry) then out = 0 end
      if name == me then
        mine = {out = out, since = since, told = tonumber(of) == given[19] and tonumber(told) or 0}
      elseif is_gone(seen) then
        redis.call('HDEL', KEYS[limit], name)
      else
        others = others + out
        -- Where they differ, the lowest holds.
        amount, worth = math.min(amount, tonumber(most)), math.min(worth, tonumber(worths))
        if following == '1' then follows = true else firm = math.min(firm, tonumber(most)) end
        if since > 0 and now - seen < term then waiting[#waiting + 1] = {since, tonumber(needs)} end
      end
    end
  end

  -- A clock that went back, as another server's may have, stands still.
  for _, name in ipairs({'at', 'stated_since', 'stated_at', 'word_at'}) do
    if state[name] then state[name] = math.min(state[name], now) end
  end
  -- What the provider states holds instead of what is set. A lower one holds at once, unless it is older than what holds;
  -- a higher one only when nobody was told the lower one of late, so that one who is wrong raises it for nobody.
  local stated = state.stated
  if says > 0 then
    if not stated or says < stated and heard > state.stated_since
      or says > stated and heard - state.stated_at >= settled then
      stated, state.stated_since, state.stated_at = says, heard, heard
    elseif says == stated then
      state.stated_at = math.max(state.stated_at, heard)
    end
  end
  if stated and follows then amount = math.min(stated, firm) end
  local burst = math.max(1, math.floor(amount * worth / period))

  local level, at, full = state.level, state.at, state.full
  local taken, withheld, doubted = state.taken or 0, state.withheld or 0, state.doubted or 0
  if not level then
    -- One that somebody has used before was lost, and nobody knows how full it was.
    level, at, full = burst, now, now
    if known == 1 then level = 0 end
  end

  local room = burst - level - others - mine.out
  -- Lowered.
  if room < 0 then level, room = level + room, 0 end
  local more = math.floor((now - at) * amount / period)
  if more > 0 and more >= room then
    level, at, full = level + room, now, full + 1
    -- There it goes on filling.
    withheld = math.max(0, withheld - more + room)
  elseif more > 0 then
    level, at = level + more, at + math.ceil(more * period / amount)
  end

  -- What is new of it: what was used first, then what is charged.
  local sum = used + charge
  local heard_of = math.min(used, math.max(mine.told, 0))
  used, charge = used - heard_of, math.min(charge - (mine.told - heard_of), given[20])
  level, taken = level + mine.out - used - holding, taken + used + charge
  if charge > 0 then
    level = level - charge
  elseif charge < 0 and fill == full then
    level = math.min(level - charge, math.max(level, burst - others - holding))
  end
  -- Whatever was told: nobody waits for longer than a period's worth to come back.
  level = math.max(level, -amount)

  -- What the provider has left, less what was taken since it was heard, is all that may be in the bucket and on lease. It is
  -- set by the latest word, so hearing it from several changes nothing.
  if given[15] == 1 and heard >= (state.word_at or 0) then
    withheld = math.max(0, level + others + holding - given[16] + taken - given[17])
    state.word_at, doubted = heard, now + given[18]
  end
  doubted = math.min(doubted, now + minute)
  if now >= doubted then withheld = 0 end
  local free = level - withheld

  local grant, wait, since = 0, 0, 0
  local share = math.max(1, math.floor(burst / (2 * processes)))
  -- When there is little, a busy process waits for what is worth a trip.
  local batch = math.min(given[11], share)
  local ahead = 0
  for _, other in ipairs(waiting) do
    if need == 0 or mine.since == 0 or other[1] < mine.since then ahead = ahead + other[2] end
  end
  local function waits(amounts)
    local own, theirs = (amounts - level) * period / amount, (amounts - free) * period / amount
    return math.ceil(math.min(theirs, math.max(own, doubted - now)))
  end
  if need > 0 then
    -- What is larger than the bucket starts when that is full, and leaves a debt.
    local enough = math.min(math.max(need, batch), math.max(1, burst - others - holding))
    if ahead == 0 and free >= enough then
      grant = math.max(need, math.min(want, share, free))
    else
      since = mine.since > 0 and mine.since or now
      need = enough
      wait = math.max(waits(ahead + need) - (now - at), 0)
    end
  elseif want > 0 and ahead == 0 then
    if free >= batch then
      grant = math.max(0, math.min(want, share - holding, free))
    else
      wait = math.max(waits(batch), 0)
    end
  end
  level = level - grant

  if leaves then
    redis.call('HDEL', KEYS[limit], me)
  else
    redis.call('HSET', KEYS[limit], me, text(holding + grant, now + term, now, since, since > 0 and need or 0,
      given[1], given[3], given[12], sum, given[19]))
  end
  redis.call('HSET', KEYS[limit], 'level', text(level), 'at', text(at), 'full', text(full), 'taken', text(taken))
  if stated then
    redis.call('HSET', KEYS[limit], 'stated', text(stated), 'stated_since', text(state.stated_since),
      'stated_at', text(state.stated_at))
  end
  if state.word_at then
    redis.call('HSET', KEYS[limit], 'withheld', text(withheld), 'doubted', text(doubted),
      'word_at', text(state.word_at))
  end
  local keep = math.max(burst - level, 0) * period / amount / 1000 + 60000
  redis.call('PEXPIRE', KEYS[limit], text(math.ceil(math.max(keep, stated and remembered or 0))))
  for _, number in ipairs({grant, wait, full, amount, burst, taken}) do reply[#reply + 1] = number end
end
for _, word in ipairs(gates) do reply[#reply + 1] = word end
return reply
