-- attach: the first call of every connection; tells the server's run id, so that a restart is noticed (R6).
--
-- Verdicts  ok (the caller's epoch is the fleet's), or what _fleet.lua says: epoch, foreign, schema
-- Keeps     another run id, or anything lost, begins a new epoch before anybody is granted anything

return guard(true) or reply('ok')
