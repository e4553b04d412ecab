-- lock: the publish lock of one model: at most one trainer stages and proposes at a time. It limits waste; propose checks it (R9).
--
-- KEYS      9 lock (string: token, a space, JSON of who and since)
-- ARGV      9 take | extend | free   10 token   11 JSON of who and since   12 milliseconds
-- Verdicts  ok     held: another token has it, `holder` is its JSON     lost: (extend) nobody has it
-- Keeps     one that expires later than it could (the server's clock was set back), or never, expires after the caller's time (R8)

local early = guard()
if early then return early end
local lock_key = KEYS[9]
local action, token, about, ttl = ARGV[9], ARGV[10], ARGV[11], ARGV[12]

local held = redis.pcall('GET', lock_key)
if type(held) == 'table' then redis.call('DEL', lock_key); held = false end
local owner, holder = (held or ''):match('^(%S+) ?(.*)$')
if owner and owner ~= token then
  local left = redis.call('PTTL', lock_key)
  if action == 'take' and (left < 0 or left > tonumber(ttl)) then redis.call('PEXPIRE', lock_key, ttl) end
  return reply('held', {holder = holder})
end
if action == 'free' then
  if owner then redis.call('DEL', lock_key) end
elseif owner or action == 'take' then
  redis.call('SET', lock_key, token .. ' ' .. (owner and holder or about), 'PX', ttl)
else
  return reply('lost')
end
return reply('ok')
