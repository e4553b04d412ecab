-- manifest: the manifest of one generation, as it was proposed: opaque here, checked by who reads it.
--
-- ARGV      9 model   10 generation
-- Verdicts  ok: manifest (missing: not known, or too old)

local early = guard()
if early then return early end
local name, gen = ARGV[9], ARGV[10]

return reply('ok', {manifest = redis.call('HGET', generations_key, manifest_field(name, gen)) or nil})
