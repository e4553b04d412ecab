-- propose: a manifest becomes the candidate of its model, or waits as the next one (R11).
--
-- KEYS      9 lock (string)
-- ARGV      9 model   10 request id   11 token of the lock   12 version   13 poison key   14 manifest   15 agreement, 0 < x ≤ 1
--           16 time to prepare, ms   17 by   18 "1": now, stop what is in work   19 "1": force, try a poisoned version again
--           20 canary: JSON of {steps, length, policy}, see _model.lua; empty: none
-- Verdicts  ok: state = candidate | next | …, generation (if it has one); the same request again: what has become of it
--           closed: try again later     lock: the token's lock is gone, `holder`     pinned: pin     poisoned: why
--           name: no model can be called that     plan: that is no canary
--           reused: the request is known as that of another change, `found`, or of another `version`
-- Keeps     R9; a refusal is remembered too, so that a late copy does not succeed where the first one failed

local early = guard()
if early then return early end
local lock_key = KEYS[9]
local name, request, token, version, poison, manifest = ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local agreement, length, by, now, force = ARGV[15], ARGV[16], ARGV[17], ARGV[18] == '1', ARGV[19] == '1'
local canary = ARGV[20] ~= '' and (sane_canary(parse(ARGV[20])) or 'none') or nil

local known = answered(name, request, 'propose', {version = version})
if known then return known end
if not fleet.open then return reply('closed') end
if not valid_name(name) then return reply('name') end
if canary == 'none' then return reply('plan') end
local record = model(name) or fresh_model(name)

local function refuse(verdict, facts)
  facts.verdict, facts.version = verdict, version
  first_answer(name, request, facts)
  save()
  return reply(verdict, facts)
end

local held = redis.pcall('GET', lock_key)
local owner, holder = (type(held) == 'string' and held or ''):match('^(%S+) ?(.*)$')
if owner ~= token then return refuse('lock', {holder = holder}) end
if record.pin then
  return refuse('pinned', {pin = record.pin, generation = record.active and record.active.gen})
end
local bad = record.poison and record.poison[poison]
if bad and not force then return refuse('poisoned', {why = bad.why}) end

local p = {request = request, version = version, poison = poison, by = by, agreement = agreement, length = length}
p.force, p.canary = force and 1 or nil, canary
first_answer(name, request, {verdict = 'ok', state = 'next', version = version})
if bad then
  record.poison[poison] = nil
  touch(name)
end
supersede(name, 'by ' .. by)
if record.cand and not now then
  record.waits = p
  write('HSET', generations_key, manifest_field(name, 'next'), manifest)
  log('next', name, {version = version, by = by, request = request})
  changed(name)
else
  if record.cand then finish(name, 'aborted', {why = 'stopped by a proposal that asked for now, by ' .. by}) end
  begin(name, p, manifest)
end
save()
return reply('ok', parse(redis.call('HGET', generations_key, request_field(name, request))))
