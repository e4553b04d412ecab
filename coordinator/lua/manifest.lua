-- manifest: the manifest of one generation, as it was proposed: opaque here, checked by who reads it.
--
-- ARGV      9 model   10 generation
-- Verdicts  ok: manifest (missing: not known, or too old); target: the generation that it went back to, of a rollback

local early = guard()
if early then return early end
local name, gen = ARGV[9], ARGV[10]

local back = number_of((parse(redis.call('HGET', generations_key, outcome_field(name, gen))) or {}).rollback)
local found = redis.call('HGET', generations_key, manifest_field(name, gen)) or nil
return reply('ok', {manifest = found, target = back and whole(back)})
