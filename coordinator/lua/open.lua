-- open: a new epoch was watched for a whole lease by the caller's clock (R6); its epoch is the caller's.
--
-- ARGV      9 who watched, for the log
-- Verdicts  ok (also when it was open)

local early = guard()
if early then return early end
local watcher = ARGV[9]

if not fleet.open then
  set('open', true)
  revise()
  log('open', nil, {epoch = whole(fleet.epoch), by = watcher})
end
flush()
return reply('ok')
