"""The Lua scripts of the job store in Redis: atomic changes of several of its keys."""

# Each transition of a job is one script, which may arrive twice, for example if its answer was lost: KEYS[1] is the
# job, and KEYS[2] exists if this same call was carried out before.
ONCE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return 1 end
local function carried_out()
    redis.call('SET', KEYS[2], 1, 'EX', 120)
    return 1
end
"""

CREATE = f"""{ONCE}
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 5))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('SET', KEYS[3], ARGV[2], 'EX', ARGV[1])
for at = 4, 5 do
    redis.call('ZADD', KEYS[at], ARGV[3], ARGV[4])
    redis.call('ZREMRANGEBYSCORE', KEYS[at], '-inf', ARGV[3] - ARGV[1])
end
redis.call('HINCRBY', KEYS[6], 'jobs.submitted', 1)
redis.call('EXPIRE', KEYS[6], ARGV[1])
return carried_out()
"""

# A job that has ended is no longer live, except a cancelled one until it is cleaned.
MOVE = f"""{ONCE}
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'succeeded' or state == 'failed' or state == 'cancelled' then return 0 end
if ARGV[6] ~= '' and tonumber(redis.call('HGET', KEYS[1], 'revived') or 0) > tonumber(ARGV[6]) then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 7))
redis.call('EXPIRE', KEYS[1], ARGV[1])
if ARGV[2] ~= '' then
    redis.call('HINCRBY', KEYS[4], ARGV[2], 1)
    redis.call('EXPIRE', KEYS[4], ARGV[1])
end
if ARGV[3] == 'over' then
    redis.call('ZREM', KEYS[3], ARGV[5])
else
    redis.call('ZADD', KEYS[3], 'NX', ARGV[4], ARGV[5])
end
return carried_out()
"""

UPDATE = """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
redis.call('EXPIRE', KEYS[1], ARGV[1])
return 1
"""

# Requested by the user, or (ARGV[6]) because storage knows of a later generation.
REVIVE = f"""{ONCE}
local state = redis.call('HGET', KEYS[1], 'state')
local generation = tonumber(redis.call('HGET', KEYS[1], 'revived') or 0)
if state ~= ARGV[4] then return 0 end
if ARGV[6] == '' then
    if state == 'cancelled' and redis.call('HEXISTS', KEYS[1], 'cleaned') == 0 then return 0 end
    if ARGV[5] ~= '' and generation + 1 ~= tonumber(ARGV[5]) then return 0 end
    generation = generation + 1
else
    if generation >= tonumber(ARGV[5]) then return 0 end
    generation = ARGV[5]
end
redis.call('HSET', KEYS[1], 'state', 'queued', 'revived', generation)
redis.call('HDEL', KEYS[1], unpack(ARGV, 7))
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[3], ARGV[2], ARGV[3])
for at = 4, #KEYS do redis.call('UNLINK', KEYS[at]) end
return carried_out()
"""

DROP = """
for at = 3, #KEYS do redis.call('UNLINK', KEYS[at]) end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
"""

# Counts without a key for each call: the field holds the count and the tokens of the latest calls, the latest first, so
# that a call that arrives twice finds itself. A number alone is a count, too.
COUNT = """
local known = redis.call('HGET', KEYS[1], ARGV[2]) or '0'
local count, tokens = string.match(known, '^(%d+)(.*)$')
local later = 0
for token in string.gmatch(tokens, '%S+') do
    if token == ARGV[3] then return count - later end
    later = later + 1
end
count = count + 1
local kept = string.sub(tokens, 1, 7 * (#ARGV[3] + 1))
redis.call('HSET', KEYS[1], ARGV[2], count .. ' ' .. ARGV[3] .. kept)
redis.call('EXPIRE', KEYS[1], ARGV[1])
"""

_NOTE_AND_ADD = """
if ARGV[4] ~= '' then
    redis.call('HSET', KEYS[3], ARGV[4], ARGV[5])
    redis.call('EXPIRE', KEYS[3], ARGV[1])
end
for i = 7, #ARGV, 2 do redis.call('HINCRBY', KEYS[i <= 6 + 2 * ARGV[6] and 2 or 4], ARGV[i], ARGV[i + 1]) end
if #ARGV > 6 then
    redis.call('EXPIRE', KEYS[2], ARGV[1])
    redis.call('EXPIRE', KEYS[4], ARGV[1])
end
"""

NEXT_ATTEMPT = f"{COUNT}{_NOTE_AND_ADD}return count"

EXCUSE_ATTEMPT = f"{COUNT}return count"

ADD_COMMIT = f"""
if redis.call('HSETNX', KEYS[1], ARGV[2], ARGV[3]) == 0 then return 0 end
redis.call('EXPIRE', KEYS[1], ARGV[1])
{_NOTE_AND_ADD}return 1
"""

# A mark is set only once with the same text: a call with the same text was sent twice.
SET_MARK = f"""
if redis.call('HGET', KEYS[3], ARGV[4]) == ARGV[5] then return 0 end
{_NOTE_AND_ADD}return 1
"""

HOLD = """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

RECORD_WORKER = """
local now = redis.call('TIME')
redis.call('HSET', KEYS[1], ARGV[2], ARGV[3])
redis.call('ZADD', KEYS[2], now[1] .. '.' .. string.format('%06d', now[2]), ARGV[2])
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now[1] - ARGV[1])) do
    redis.call('HDEL', KEYS[1], name)
    redis.call('ZREM', KEYS[2], name)
end
redis.call('EXPIRE', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[1])
"""

# Redis may evict the list of live jobs alone.
KEEP_LIVE = """
local state = redis.call('HGET', KEYS[1], 'state')
if not state or state == 'succeeded' or state == 'failed' then return 0 end
return redis.call('ZADD', KEYS[2], 'NX', ARGV[1], ARGV[2])
"""
