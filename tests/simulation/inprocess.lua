-- A Redis for genlock's scripts and nothing else, inside one Lua 5.1: keys, virtual time, cjson, and a place to run a script.
--
-- Returns a table of functions for inprocess.py. Values never leave Lua but as the reply of a script: that is what makes it fast.
-- A key's value is never changed while a snapshot shares it: it is copied at the first write after (`writable`).

local keys = {}                 -- name → {kind = 'hash', map, n} | {kind = 'string', text, dies} | {kind = 'stream', list}
local now_us = 0                -- virtual microseconds; never moves by itself
local is_read_only = false      -- a replica: reads, and refuses every write
local published = {}            -- channel, message, …
local has_changed = true        -- something was written but the numbers that every call takes, since `changes` was asked
local random_state = 1

collectgarbage('setpause', 400) -- what lives is small, what is thrown away is much

local find, sub, byte, format, gsub, concat = string.find, string.sub, string.byte, string.format, string.gsub, table.concat

-- Values ----------------------------------------------------------------------------------------------------------

local OK = {ok = 'OK'}
local WRONGTYPE = 'WRONGTYPE Operation against a key holding the wrong kind of value'

local function refuse(message) error({err = message}, 0) end

local function text(x)
  if type(x) == 'string' then return x end
  if type(x) ~= 'number' then refuse('ERR Lua redis lib command arguments must be strings or integers') end
  return x == math.floor(x) and format('%.0f', x) or format('%.17g', x)
end

local function lookup(name, kind)
  local value = keys[text(name)]
  if value and value.dies and now_us >= value.dies then
    keys[name] = nil
    return nil
  end
  if value and kind and value.kind ~= kind then refuse(WRONGTYPE) end
  return value
end

local function copy_of(value)
  if value.kind == 'hash' then
    local map = {}
    for field, x in pairs(value.map) do map[field] = x end
    return {kind = 'hash', map = map, n = value.n}
  end
  local list = {}
  for i, row in ipairs(value.list) do list[i] = row end
  return {kind = 'stream', list = list, ms = value.ms, serial = value.serial}
end

local function refuse_if_read_only()
  if is_read_only then refuse("READONLY You can't write against a read only replica.") end
end

local function writable(name, kind, new)
  refuse_if_read_only()
  local value = lookup(name, kind)
  if not value then
    value = new()
    keys[name] = value
  elseif value.shared then
    value = copy_of(value)
    keys[name] = value
  end
  return value
end

local function new_hash() return {kind = 'hash', map = {}, n = 0} end
local function new_stream() return {kind = 'stream', list = {}, ms = 0, serial = 0} end

-- MINSTD: the product stays below 2^53, so it is exact.
local function random_below(n)
  random_state = random_state * 16807 % 2147483647
  return random_state % n
end

-- Commands: those that the scripts use, and the few reads that people's pages need -----------------------------------

local commands = {}

function commands.TIME() return {format('%.0f', math.floor(now_us / 1e6)), format('%.0f', now_us % 1e6)} end

function commands.TYPE(name)
  local value = lookup(name)
  return {ok = value and value.kind or 'none'}
end

function commands.DEL(...)
  refuse_if_read_only()
  has_changed = true
  local n = 0
  for i = 1, select('#', ...) do
    local name = select(i, ...)
    if lookup(name) then
      keys[name] = nil
      n = n + 1
    end
  end
  return n
end

function commands.GET(name)
  local value = lookup(name, 'string')
  return value and value.text or false
end

function commands.SET(name, new, option, ms)
  if option and option ~= 'PX' then refuse('ERR syntax error') end
  refuse_if_read_only()
  has_changed = true
  keys[name] = {kind = 'string', text = text(new), dies = option and now_us + tonumber(ms) * 1000}
  return OK
end

function commands.PTTL(name)
  local value = lookup(name)
  if not value then return -2 end
  return value.dies and math.floor((value.dies - now_us) / 1000) or -1
end

function commands.PEXPIRE(name, ms)
  refuse_if_read_only()
  local value = lookup(name, 'string')
  if not value then return 0 end
  keys[name] = {kind = 'string', text = value.text, dies = now_us + tonumber(ms) * 1000}
  return 1
end

function commands.HGET(name, field)
  local value = lookup(name, 'hash')
  return value and value.map[text(field)] or false
end

function commands.HEXISTS(name, field) return commands.HGET(name, field) and 1 or 0 end

function commands.HMGET(name, ...)
  local value, found = lookup(name, 'hash'), {...}
  for i, field in ipairs(found) do found[i] = value and value.map[text(field)] or false end
  return found
end

local function put(value, field, new)
  local is_new = value.map[field] == nil
  value.map[field] = new
  if is_new then value.n = value.n + 1 end
  return is_new and 1 or 0
end

function commands.HSET(name, ...)
  local row, n = {...}, 0
  if #row < 2 or #row % 2 == 1 then refuse("ERR wrong number of arguments for 'hset' command") end
  local value = writable(name, 'hash', new_hash)
  -- A single beat of the fleet or of a member is written by every call, and changes nothing that is looked at.
  has_changed = has_changed or #row > 2 or (row[1] ~= 'beat' and find(name, ':members', 1, true) == nil)
  for i = 1, #row, 2 do n = n + put(value, text(row[i]), text(row[i + 1])) end
  return n
end

function commands.HSETNX(name, field, new)
  refuse_if_read_only()
  if commands.HGET(name, field) then return 0 end
  has_changed = true
  return put(writable(name, 'hash', new_hash), text(field), text(new))
end

function commands.HDEL(name, ...)
  refuse_if_read_only()
  if not lookup(name, 'hash') then return 0 end
  has_changed = true
  local value, n = writable(name, 'hash', new_hash), 0
  for i = 1, select('#', ...) do
    local field = text(select(i, ...))
    if value.map[field] ~= nil then
      value.map[field] = nil
      n = n + 1
    end
  end
  value.n = value.n - n
  if value.n == 0 then keys[name] = nil end
  return n
end

function commands.HLEN(name)
  local value = lookup(name, 'hash')
  return value and value.n or 0
end

local function listed(name, each)
  local value, found = lookup(name, 'hash'), {}
  for field, x in pairs(value and value.map or {}) do each(found, field, x) end
  return found
end

local function put_both(found, field, x)
  found[#found + 1] = field
  found[#found + 1] = x
end

function commands.HGETALL(name) return listed(name, put_both) end

function commands.HKEYS(name)
  return listed(name, function(found, field) found[#found + 1] = field end)
end

-- Up to `most` different fields, drawn by the seed; all of them, if they are not more, in the hash's order, as a real server does.
function commands.HRANDFIELD(name, most, with)
  if with ~= 'WITHVALUES' then refuse('ERR only with WITHVALUES here') end
  local value, fields, found = lookup(name, 'hash'), commands.HKEYS(name), {}
  local n = math.min(tonumber(most), #fields)
  for i = 1, n do
    local j = n < #fields and i + random_below(#fields - i + 1) or i
    fields[i], fields[j] = fields[j], fields[i]
    put_both(found, fields[i], value.map[fields[i]])
  end
  return found
end

-- XADD name MAXLEN ~ most * field value …: trimmed a hundred at a time, as a real stream is.
function commands.XADD(name, maxlen, about, most, star, ...)
  if maxlen ~= 'MAXLEN' or about ~= '~' or star ~= '*' then refuse('ERR only MAXLEN ~ here') end
  local value, row = writable(name, 'stream', new_stream), {...}
  has_changed = true
  for i = 1, #row do row[i] = text(row[i]) end
  local ms = math.floor(now_us / 1000)
  if ms > value.ms then value.ms, value.serial = ms, 0 else value.serial = value.serial + 1 end
  row.id = format('%.0f-%d', value.ms, value.serial)
  value.list[#value.list + 1] = row
  if #value.list >= tonumber(most) + 100 then
    for _ = 1, 100 do table.remove(value.list, 1) end
  end
  return row.id
end

function commands.XRANGE(name)
  local value, found = lookup(name, 'stream'), {}
  for i, row in ipairs(value and value.list or {}) do found[i] = {row.id, row} end
  return found
end

function commands.PUBLISH(channel, message)
  published[#published + 1] = text(channel)
  published[#published + 1] = text(message)
  return 1
end

-- redis.call ------------------------------------------------------------------------------------------------------

local redis = {}

function redis.call(name, ...)
  local command = commands[name]
  if not command then refuse('ERR unknown command ' .. tostring(name)) end
  return command(...)
end

function redis.pcall(...)
  local ok, result = pcall(redis.call, ...)
  if ok then return result end
  return type(result) == 'table' and result or {err = tostring(result)}
end

function redis.error_reply(message) return {err = message} end
function redis.status_reply(message) return {ok = message} end

-- cjson, as Redis has it: numbers by %.14g, an empty table is {}, null is a userdata, 1000 levels --------------------

local null = newproxy()
local DEPTH = 1000

local ESCAPES = {['"'] = '\\"', ['\\'] = '\\\\', ['/'] = '\\/', ['\b'] = '\\b', ['\f'] = '\\f', ['\n'] = '\\n', ['\r'] = '\\r', ['\t'] = '\\t'}
for code = 0, 127 do
  local c = string.char(code)
  if (code < 32 or code == 127) and not ESCAPES[c] then ESCAPES[c] = format('\\u%04x', code) end
end

-- What was quoted lately: nearly all texts of a schedule are written again and again.
local quotes, n_quotes = {}, 0
local MOST_QUOTES, LONGEST_QUOTE = 2000, 100

local function quoted(s)
  local known = quotes[s]
  if known then return known end
  local out = '"' .. (find(s, '[%c"\\/]') and gsub(s, '[%c"\\/]', ESCAPES) or s) .. '"'
  if #s <= LONGEST_QUOTE then
    if n_quotes >= MOST_QUOTES then quotes, n_quotes = {}, 0 end
    quotes[s], n_quotes = out, n_quotes + 1
  end
  return out
end

-- The length of a table that is a list, else nil; one with holes is refused when most of it would be.
local function list_length(t)
  local most, n = 0, 0
  for key in pairs(t) do
    if type(key) ~= 'number' or key < 1 or key ~= math.floor(key) then return nil end
    if key > most then most = key end
    n = n + 1
  end
  if most > 10 and most > n * 2 then error('Cannot serialise table: excessively sparse array', 0) end
  return most > 0 and most or nil
end

local append

local function append_table(out, t, depth)
  if depth > DEPTH then error('Cannot serialise, excessive depth', 0) end
  local length = list_length(t)
  out[#out + 1] = length and '[' or '{'
  if length then
    for i = 1, length do
      if i > 1 then out[#out + 1] = ',' end
      append(out, t[i], depth)
    end
  else
    local comma = ''
    for key, x in pairs(t) do
      if type(key) == 'number' then key = format('%.14g', key) end
      if type(key) ~= 'string' then error('Cannot serialise table: key must be a number or string', 0) end
      out[#out + 1] = comma .. quoted(key) .. ':'
      append(out, x, depth)
      comma = ','
    end
  end
  out[#out + 1] = length and ']' or '}'
end

function append(out, x, depth)
  local kind = type(x)
  if kind == 'string' then
    out[#out + 1] = quoted(x)
  elseif kind == 'table' then
    append_table(out, x, depth + 1)
  elseif kind == 'number' then
    if x ~= x or x == 1 / 0 or x == -1 / 0 then error('Cannot serialise number: must not be NaN or Inf', 0) end
    out[#out + 1] = format('%.14g', x)
  elseif kind == 'boolean' then
    out[#out + 1] = tostring(x)
  elseif x == nil or x == null then
    out[#out + 1] = 'null'
  else
    error('Cannot serialise ' .. kind .. ': type not supported', 0)
  end
end

local cjson = {null = null}

function cjson.encode(x)
  local out = {}
  append(out, x, 0)
  return concat(out)
end

local UNESCAPES = {b = '\b', f = '\f', n = '\n', r = '\r', t = '\t', ['"'] = '"', ['\\'] = '\\', ['/'] = '/'}

local function bad(i) error('Expected value but found invalid token at character ' .. i, 0) end

local function utf8_of(code)
  local char = string.char
  local function tail(shift) return 128 + math.floor(code / shift) % 64 end
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(192 + math.floor(code / 64), tail(1)) end
  if code < 0x10000 then return char(224 + math.floor(code / 4096), tail(64), tail(1)) end
  return char(240 + math.floor(code / 262144), tail(4096), tail(64), tail(1))
end

-- An escape at `i` (the backslash): its text, and where it goes on.
local function unescaped(s, i)
  local c = sub(s, i + 1, i + 1)
  if c ~= 'u' then return UNESCAPES[c] or bad(i), i + 2 end
  local code = tonumber(s:match('^%x%x%x%x', i + 2) or bad(i), 16)
  if code < 0xD800 or code > 0xDFFF then return utf8_of(code), i + 6 end
  local low = tonumber(s:match('^\\u([dD][c-fC-F]%x%x)', i + 6) or bad(i), 16)
  return utf8_of(0x10000 + (code - 0xD800) * 1024 + low - 0xDC00), i + 12
end

-- The string that begins at `i` (its quote).
local function string_at(s, i)
  local stop = find(s, '["\\]', i + 1) or bad(i)
  if byte(s, stop) == 34 then return sub(s, i + 1, stop - 1), stop + 1 end
  local out, from = {}, i + 1
  while byte(s, stop) == 92 do
    out[#out + 1] = sub(s, from, stop - 1)
    out[#out + 1], from = unescaped(s, stop)
    stop = find(s, '["\\]', from) or bad(i)
  end
  out[#out + 1] = sub(s, from, stop - 1)
  return concat(out), stop + 1
end

local function past_space(s, i)
  local c = byte(s, i)
  if c ~= 32 and c ~= 9 and c ~= 10 and c ~= 13 then return i, c end
  i = find(s, '[^ \t\r\n]', i) or #s + 1
  return i, byte(s, i)
end

local value_at

local function object_at(s, i, depth)
  local out, c = {}, nil
  i, c = past_space(s, i + 1)
  if c == 125 then return out, i + 1 end
  while true do
    local key
    if c ~= 34 then bad(i) end
    key, i = string_at(s, i)
    i, c = past_space(s, i)
    if c ~= 58 then bad(i) end
    out[key], i = value_at(s, i + 1, depth)
    i, c = past_space(s, i)
    if c == 125 then return out, i + 1 end
    if c ~= 44 then bad(i) end
    i, c = past_space(s, i + 1)
  end
end

local function list_at(s, i, depth)
  local out, n, c = {}, 0, nil
  i, c = past_space(s, i + 1)
  if c == 93 then return out, i + 1 end
  while true do
    n = n + 1
    out[n], i = value_at(s, i, depth)
    i, c = past_space(s, i)
    if c == 93 then return out, i + 1 end
    if c ~= 44 then bad(i) end
    i = i + 1
  end
end

local LITERALS = {['true'] = true, ['false'] = false, ['null'] = null}

function value_at(s, i, depth)
  local c
  i, c = past_space(s, i)
  if c == 34 then return string_at(s, i) end
  if c == 123 or c == 91 then
    if depth >= DEPTH then error('Found too many nested data structures', 0) end
    return (c == 123 and object_at or list_at)(s, i, depth + 1)
  end
  local word = s:match('^%a+', i)
  if word and LITERALS[word] ~= nil then return LITERALS[word], i + #word end
  local digits = s:match('^-?%d+%.?%d*[eE]?[+-]?%d*', i)
  local number = digits and tonumber(digits)
  if not number then bad(i) end
  return number, i + #digits
end

-- What was parsed lately, by its text, never handed out: most calls read a record that another has read before.
local parsed, n_parsed = {}, 0
local MOST_PARSED = 256

local function clone(x)
  if type(x) ~= 'table' then return x end
  local out = {}
  for key, value in pairs(x) do out[key] = type(value) == 'table' and clone(value) or value end
  return out
end

local function parse(s)
  local x, i = value_at(s, 1, 0)
  if past_space(s, i) <= #s then bad(i) end
  if n_parsed >= MOST_PARSED then parsed, n_parsed = {}, 0 end
  parsed[s], n_parsed = x, n_parsed + 1
  return x
end

function cjson.decode(s)
  s = text(s)
  local x = parsed[s]
  if x == nil then x = parse(s) end
  return clone(x)
end

-- Running a script --------------------------------------------------------------------------------------------------

local function forbidden(_, name) error('Script attempted to access nonexistent global variable ' .. tostring(name), 2) end

local world = setmetatable({
  redis = redis, cjson = cjson, string = string, table = table, math = math, type = type, tonumber = tonumber, tostring = tostring,
  pairs = pairs, ipairs = ipairs, next = next, select = select, unpack = unpack, pcall = pcall, error = error, assert = assert,
}, {__index = forbidden, __newindex = forbidden})

local function compile(source)
  local chunk, why = loadstring(source, '@user_script')
  if not chunk then error(why, 0) end
  return setfenv(chunk, world)
end

-- true, the reply; or false, the error. What was written before an error stays written, as in Redis.
local function run(chunk, at_us, n_keys, ...)
  local names, argv = {...}, {select(n_keys + 1, ...)}
  for i = #names, n_keys + 1, -1 do names[i] = nil end
  rawset(world, 'KEYS', names)
  rawset(world, 'ARGV', argv)
  now_us = at_us
  local ok, result = pcall(chunk)
  if ok then return true, result end
  return false, type(result) == 'table' and tostring(result.err) or tostring(result)
end

local function command(at_us, ...)
  now_us = at_us
  local result = redis.pcall(...)
  return result
end

-- Whether anything but beats was written since this was asked.
local function changes()
  local was = has_changed
  has_changed = false
  return was
end

local function set_read_only(is) is_read_only = is end

-- What was published since this was asked: channel, message, channel, message, …
local function take_published()
  if #published == 0 then return nil end
  local out = concat(published, '\n')
  published = {}
  return out
end

local function snapshot()
  local kept = {}
  for name, value in pairs(keys) do
    value.shared = true
    kept[name] = value
  end
  return kept
end

local function restore(kept)
  has_changed = true
  keys = {}
  for name, value in pairs(kept or {}) do keys[name] = value end
end

local function seed(n) random_state = n % 2147483646 + 1 end

return compile, run, command, snapshot, restore, seed, changes, set_read_only, take_published
