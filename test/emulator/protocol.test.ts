import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Emulator } from '../../emulator/server.ts'
import { embedded, newClient, send, start } from './start.ts'

let emulator: Emulator
beforeAll(async () => {
  emulator = await start()
})
afterAll(() => emulator.close())

const newToken = () => crypto.randomUUID()
const base64 = { 'upstash-encoding': 'base64' }
const resp2 = { 'upstash-response-format': 'resp2' }

test('a command is a JSON array in the body, numbers and booleans included', async () => {
  const token = newToken()
  expect(await send(emulator, token, '/', '["SET","foo","bar","EX",100]')).toMatchObject({
    status: 200,
    json: { result: 'OK' },
  })
  expect((await send(emulator, token, '/', '["TTL","foo"]')).json).toEqual({ result: expect.closeTo(100, -1) })
  await send(emulator, token, '/', '["SET","flag",true]')
  expect((await send(emulator, token, '/', '["GET","flag"]')).json).toEqual({ result: 'true' })
  expect((await send(emulator, token, '/', '["GET","none"]')).json).toEqual({ result: null })
})

test('integers keep digits that a JavaScript number would lose', async () => {
  const token = newToken()
  await send(emulator, token, '/', '["SET","n",9007199254740993]')
  const { response } = await send(emulator, token, '/', '["INCRBY","n",2]')
  expect(await response.text()).toBe('{"result":9007199254740995}')
})

test('a number is stored as the client wrote it', async () => {
  const token = newToken()
  for (const number of ['1e400', '-1E-400', '1.0', '0.10', '-0', '12345678901234567890.5', '-9007199254740993']) {
    expect((await send(emulator, token, '/', `["SET", "n" ,\n${number}]`)).json).toEqual({ result: 'OK' })
    expect((await send(emulator, token, '/pipeline', `[["GET","n"],["ECHO", ${number} ]]`)).json).toEqual([
      { result: number },
      { result: number },
    ])
  }
  await send(emulator, token, '/', '["SET","text","[1e400,1.0"]')
  expect((await send(emulator, token, '/get/text')).json).toEqual({ result: '[1e400,1.0' })
  expect((await send(emulator, token, '/', '["SET","n",1.0,[1e400]]')).status).toBe(400)
})

test('a command may be in the path, its arguments percent-encoded', async () => {
  const token = newToken()
  expect((await send(emulator, token, '/set/foo/a%2Fb%20c/EX/100')).json).toEqual({ result: 'OK' })
  expect((await send(emulator, token, '/get/foo')).json).toEqual({ result: 'a/b c' })
  expect((await send(emulator, token, '/set/bar/1?EX=100&NX')).json).toEqual({ result: 'OK' })
  expect((await send(emulator, token, '/set/bar/2?EX=100&NX')).json).toEqual({ result: null })
  expect((await send(emulator, token, '/ttl/bar/')).json).toEqual({ result: expect.closeTo(100, -1) })
})

test('a value may be the body, as bytes, with options in the query', async () => {
  const token = newToken()
  const bytes = new Uint8Array([0, 255, 13, 10, 128])
  expect((await send(emulator, token, '/set/foo?EX=100', bytes)).json).toEqual({ result: 'OK' })
  expect((await send(emulator, token, '/get/foo', undefined, base64)).json).toEqual({ result: btoa('\0\xff\r\n\x80') })
  expect((await send(emulator, token, '/get/foo')).json).toEqual({ result: '\0\ufffd\r\n\ufffd' })
  expect((await send(emulator, token, '/ttl/foo')).json).toEqual({ result: expect.closeTo(100, -1) })
  expect((await send(emulator, token, '/strlen/foo')).json).toEqual({ result: 5 })
})

test('a pipeline answers each command in its place', async () => {
  const token = newToken()
  const body = '[["SET","a","x"],["INCR","a"],["GET"],["NOPE"],["GET","a"]]'
  const { status, json } = await send(emulator, token, '/pipeline', body)
  expect(status).toBe(200)
  expect(json).toEqual([
    { result: 'OK' },
    { error: 'ERR value is not an integer or out of range' },
    { error: "ERR wrong number of arguments for 'get' command" },
    { error: expect.stringContaining("ERR Command is not available: 'NOPE'") },
    { result: 'x' },
  ])
})

test('a transaction with a malformed command runs nothing', async () => {
  const token = newToken()
  for (const bad of ['["GET"]', '["NOPE","x"]', '["SUBSCRIBE","x"]', '["CONFIG","GET","*"]']) {
    const { status, json } = await send(emulator, token, '/multi-exec', `[["SET","a",1],${bad}]`)
    expect({ status, json }).toEqual({ status: 400, json: { error: expect.stringMatching(/^(EXECABORT|ERR) /) } })
  }
  expect((await send(emulator, token, '/get/a')).json).toEqual({ result: null })
})

test('a transaction continues after an error of one of its commands', async () => {
  const { status, json } = await send(emulator, newToken(), '/multi-exec', '[["SET","a","x"],["INCR","a"],["GET","a"]]')
  expect(status).toBe(200)
  expect(json).toEqual([{ result: 'OK' }, { error: 'ERR value is not an integer or out of range' }, { result: 'x' }])
})

test('a transaction is atomic: no other command runs between its commands', async () => {
  const token = newToken()
  const transactions = Array.from({ length: 100 }, async () => {
    const { json } = await send(emulator, token, '/multi-exec', '[["INCR","n"],["INCR","n"],["DECR","n"],["DECR","n"]]')
    return json
  })
  const expected = [{ result: 1 }, { result: 2 }, { result: 1 }, { result: 0 }]
  for (const json of await Promise.all(transactions)) expect(json).toEqual(expected)
})

test('errors are a 400 with the texts of Upstash', async () => {
  const token = newToken()
  const refused = async (path: string, body?: string) => {
    const { status, json } = await send(emulator, token, path, body)
    expect(status).toBe(400)
    return (json as { error: string }).error
  }
  expect(await refused('/get')).toBe("ERR wrong number of arguments for 'get' command")
  expect(await refused('/', '["LPUSH","k"]')).toBe("ERR wrong number of arguments for 'lpush' command")
  expect(await refused('/', '["GET",')).toBe('ERR failed to parse command')
  expect(await refused('/', '')).toBe('EOF')
  expect(await refused('/', '{"a":1}')).toBe('expected JSON array')
  expect(await refused('/', '[]')).toBe('ERR empty command')
  expect(await refused('/', '["SET","a",null]')).toBe('ERR null args are not supported')
  expect(await refused('/', '["SET","a",{"x":1}]')).toBe('ERR unsupported arg type: "{": json.Delim')
  expect(await refused('/', '[["GET","a"]]')).toBe('ERR unsupported arg type: "[": json.Delim')
  expect(await refused('/pipeline', '["GET","a"]')).toBe('ERR failed to parse pipeline request')
  expect(await refused('/pipeline', '[]')).toBe('ERR empty pipeline request')
  expect(await refused('/multi-exec', 'nope')).toBe('ERR failed to parse transaction request')
})

test('commands that need a connection, block, or belong to the operator are refused', async () => {
  const token = newToken()
  const errorOf = async (...command: (string | number)[]) =>
    ((await send(emulator, token, '/', JSON.stringify(command))).json as { error?: string }).error
  for (const name of [
    'MULTI',
    'EXEC',
    'WATCH',
    'SELECT',
    'AUTH',
    'SUBSCRIBE',
    'BLPOP',
    'BZPOPMIN',
    'WAIT',
    'MONITOR',
  ]) {
    expect(await errorOf(name, 'x', 0)).toBe(
      `ERR Command "${name}" is not allowed in REST or it has a special context path`,
    )
  }
  expect(await errorOf('XREAD', 'COUNT', 1, 'BLOCK', 0, 'STREAMS', 's', '$')).toContain('not allowed in REST')
  expect(await errorOf('XREADGROUP', 'GROUP', 'g', 'c', 'BLOCK', 0, 'STREAMS', 's', '>')).toContain(
    'not allowed in REST',
  )
  for (const name of ['CONFIG', 'DEBUG', 'SHUTDOWN', 'SLOWLOG', 'OBJECT', 'MOVE', 'SWAPDB', 'REPLICAOF', 'ACL']) {
    expect(await errorOf(name, 'x')).toContain(`ERR Command is not available: '${name}'`)
  }
  expect(await errorOf('COPY', 'a', 'b', 'DB', 1)).toBe('ERR DB index is out of range')
  expect(await errorOf('PING')).toBeUndefined() // none of them reached the connection
})

test('a blocking read is refused wherever BLOCK stands, and names may be BLOCK', async () => {
  const { redis } = newClient(emulator)
  for (const command of [
    'XREAD COUNT 1 COUNT 1 BLOCK 1 STREAMS s $',
    'XREAD BLOCK 1 COUNT 1 STREAMS s $',
    'XREADGROUP GROUP g c NOACK BLOCK 1 STREAMS s >',
    'XREADGROUP GROUP g c COUNT 1 NOACK BLOCK 1 STREAMS s >',
    'xreadgroup block 1 group g c streams s >',
  ]) {
    const [name = '', ...rest] = command.split(' ')
    await expect(redis.exec([name, ...rest])).rejects.toThrow('is not allowed in REST')
  }
  await redis.xadd('BLOCK', '1-0', { n: 'x' })
  await redis.xgroup('BLOCK', { type: 'CREATE', group: 'BLOCK', id: '0' })
  await redis.xgroup('s', { type: 'CREATE', group: 'BLOCK', id: '0', options: { MKSTREAM: true } })
  const entries = [['BLOCK', [['1-0', ['n', 'x']]]]]
  expect(await redis.exec(['XREAD', 'STREAMS', 's', 'BLOCK', '0', '0'])).toEqual(entries)
  expect(await redis.exec(['XREADGROUP', 'GROUP', 'BLOCK', 'c', 'STREAMS', 's', 'BLOCK', '>', '>'])).toEqual(entries)
  expect(await redis.exec(['XREADGROUP', 'GROUP', 'BLOCK', 'BLOCK', 'STREAMS', 'BLOCK', '0'])).toEqual([['BLOCK', []]])
})

test('a key or pattern may have the name of an option', async () => {
  const { redis, token } = newClient(emulator)
  await redis.set('WITHTYPE', 1)
  await redis.copy('WITHTYPE', 'DB')
  const scan = async (options: string) => (await send(emulator, token, `/scan/0/${options}`)).json
  expect(await scan('MATCH/WITHTYPE/COUNT/100')).toEqual({ result: ['0', ['WITHTYPE']] })
  expect(await scan('MATCH/WITHTYPE/WITHTYPE/COUNT/100')).toEqual({ result: ['0', ['WITHTYPE', 'string']] })
  expect(await redis.exec(['COPY', 'WITHTYPE', 'b', 'REPLACE', 'DB', 0])).toBe(1)
  await redis.xadd('s', '1-0', { MAXLEN: 0 })
  expect(await redis.exec(['XADD', 's', '2-0', 'MAXLEN', 0])).toBe('2-0')
  expect(await redis.xlen('s')).toBe(2)
})

test('a trimming option that is not valid is an error, and nothing is written', async () => {
  const { redis, token } = newClient(emulator)
  const trims = {
    'MAXLEN x': 'ERR value is not an integer or out of range',
    'MAXLEN = x': 'ERR value is not an integer or out of range',
    'MAXLEN 1.5': 'ERR value is not an integer or out of range',
    'MAXLEN 9223372036854775808': 'ERR value is not an integer or out of range',
    'MAXLEN -1': 'ERR The MAXLEN argument must be >= 0.',
    'MINID x': 'ERR Invalid stream ID specified as stream command argument',
    'MINID ~ 1-18446744073709551616': 'ERR Invalid stream ID specified as stream command argument',
    'MAXLEN ~ 1 LIMIT x': 'ERR value is not an integer or out of range',
    'MAXLEN ~ 1 LIMIT -1': 'ERR The LIMIT argument must be >= 0.',
    'MAXLEN 1 LIMIT 1': 'ERR syntax error, LIMIT cannot be used without the special ~ option',
    'LIMIT 1': 'ERR syntax error, LIMIT cannot be used without specifying a trimming strategy',
    'MAXLEN 1 MINID 1': 'ERR syntax error, MAXLEN and MINID options at the same time are not compatible',
  }
  await redis.xadd('s', '1-0', { n: 1 })
  await redis.xadd('s', '2-0', { n: 2 })
  for (const [trim, error] of Object.entries(trims)) {
    for (const command of [
      ['XADD', 's', ...trim.split(' '), '*', 'n', '3'],
      ['XADD', 'new', 'NOMKSTREAM', ...trim.split(' '), '*', 'n', '3'],
      ['XTRIM', 's', ...trim.split(' ')],
    ]) {
      const answer = await send(emulator, token, '/', JSON.stringify(command))
      expect({ command, status: answer.status, json: answer.json }).toEqual({ command, status: 400, json: { error } })
    }
  }
  expect(await redis.xlen('s')).toBe(2)
  expect(await redis.dbsize()).toBe(1)
  const { json } = await send(emulator, token, '/multi-exec', '[["XADD","s","MAXLEN","x","*","n","3"],["XLEN","s"]]')
  expect(json).toEqual([{ error: trims['MAXLEN x'] }, { result: 2 }])
})

test('trimming options may stand in any order', async () => {
  const { redis } = newClient(emulator)
  expect(await redis.exec(['XADD', 's', 'MAXLEN', '=', 2, 'NOMKSTREAM', '*', 'n', 1])).toBeNull()
  for (const id of ['1-0', '2-0', '3-0']) await redis.exec(['XADD', 's', 'MAXLEN', '=', 2, 'NOMKSTREAM', id, 'n', 1])
  expect(await redis.xlen('s')).toBe(0)
  for (const id of ['1-0', '2-0', '3-0']) await redis.exec(['XADD', 's', 'MAXLEN', '=', 2, id, 'n', 1])
  expect(Object.keys(await redis.xrange('s', '-', '+'))).toEqual(['2-0', '3-0'])
  expect(await redis.exec(['XADD', 's', 'LIMIT', 0, 'MINID', '~', 0, '4-0', 'n', 1])).toBe('4-0')
  expect(await redis.exec(['XTRIM', 's', 'MINID', '=', '4'])).toBe(2)
})

test('errors of rewritten commands are those of the command', async () => {
  const { redis, token } = newClient(emulator)
  await redis.set('text', 'x')
  await redis.xadd('s', '5-0', { n: 1 })
  const errors: [string, string][] = [
    ['SCAN 0 COUNT x WITHTYPE', 'ERR value is not an integer or out of range'],
    ['SCAN x WITHTYPE', 'ERR invalid cursor'],
    ['SCAN WITHTYPE', 'ERR invalid cursor'],
    ['XADD text MAXLEN 1 * n 1', 'WRONGTYPE Operation against a key holding the wrong kind of value'],
    ['XADD s MAXLEN 1 bad n 1', 'ERR Invalid stream ID specified as stream command argument'],
    ['XADD s MAXLEN 1 1-0 n 1', 'ERR The ID specified in XADD is equal or smaller than the target stream top item'],
    ['XADD s MAXLEN 1 * n', "ERR wrong number of arguments for 'xadd' command"],
    ['XADD s MAXLEN 1', "ERR wrong number of arguments for 'xadd' command"],
    ['ECHO', "ERR wrong number of arguments for 'echo' command"],
    ['ECHO a b', "ERR wrong number of arguments for 'echo' command"],
    ['PUBLISH c', "ERR wrong number of arguments for 'publish' command"],
    ['PUBSUB NUMPAT x', "ERR wrong number of arguments for 'pubsub|numpat' command"],
    ['CLIENT SETINFO LIB-NAME', "ERR wrong number of arguments for 'client|setinfo' command"],
    ['CLIENT SETINFO NAME x', "ERR Unrecognized option 'NAME'"],
    ['FLUSHALL x', 'ERR syntax error'],
  ]
  for (const [command, error] of errors) {
    const { json } = await send(emulator, token, '/', JSON.stringify(command.split(' ')))
    expect({ command, json }).toEqual({ command, json: { error } })
  }
  await expect(redis.exec(['PUBSUB', 'CHANNELS', 'a', 'b'])).rejects.toThrow('wrong number of arguments')
  expect((await send(emulator, token, '/multi-exec', '[["SET","new",1],["ECHO"]]')).status).toBe(400)
  expect(await redis.exists('new')).toBe(0)
  expect(await redis.xlen('s')).toBe(1)
})

test('a token is taken from the header or the query, on every path', async () => {
  const closed = await start({ openTokens: false, tokens: ['right'] })
  try {
    for (const path of ['/', '/get/a', '/pipeline', '/multi-exec', '/subscribe/c', '/monitor', '/control']) {
      for (const headers of [{ authorization: 'Bearer wrong' }, { authorization: '' }]) {
        const response = await fetch(closed.url + path, { headers })
        expect(response.status).toBe(401)
        expect(await response.json()).toEqual({
          error: expect.stringMatching(/^WRONGPASS invalid or missing auth token/),
        })
      }
    }
    expect(await (await fetch(`${closed.url}/echo/hi?_token=right`)).json()).toEqual({ result: 'hi' })
    expect(await (await fetch(`${closed.url}/echo/hi`, { headers: { authorization: 'Bearer right' } })).json()).toEqual(
      { result: 'hi' },
    )
  } finally {
    await closed.close()
  }
})

test('a read-only token reads what its owner wrote, and nothing else', async () => {
  const owner = newToken()
  const mixed = await start({ tokens: [owner], readOnlyTokens: { reader: owner } })
  try {
    await send(mixed, owner, '/set/a/1')
    expect((await send(mixed, 'reader', '/get/a')).json).toEqual({ result: '1' })
    const error = "NOPERM this user has no permissions to run the 'set' command or its subcommand"
    expect(await send(mixed, 'reader', '/set/a/2')).toMatchObject({ status: 400, json: { error } })
    expect((await send(mixed, 'reader', '/pipeline', '[["GET","a"],["SET","a",2],["GET","a"]]')).json).toEqual([
      { result: '1' },
      { error },
      { result: '1' },
    ])
    expect(await send(mixed, 'reader', '/multi-exec', '[["GET","a"],["SET","a",2]]')).toMatchObject({ status: 400 })
    for (const path of ['/keys/*', '/scan/0', '/flushdb', '/eval/return%201/0', '/publish/c/m']) {
      expect((await send(mixed, 'reader', path)).json).toEqual({ error: expect.stringMatching(/^NOPERM/) })
    }
  } finally {
    await mixed.close()
  }
})

test('a read-only token may run subcommands that only read', async () => {
  const owner = newToken()
  const mixed = await start({ tokens: [owner], readOnlyTokens: { reader: owner } })
  const read = async (path: string) => (await send(mixed, 'reader', path)).json
  try {
    await send(mixed, owner, '/xadd/s/1-0/n/x')
    await send(mixed, owner, '/xgroup/create/s/g/0')
    expect(await read('/xinfo/stream/s')).toEqual({ result: expect.arrayContaining(['length', 1]) })
    expect(await read('/xinfo/groups/s')).toEqual({ result: [expect.any(Array)] })
    expect(await read('/xinfo/consumers/s/g')).toEqual({ result: [] })
    if (!embedded) expect(await read('/memory/usage/s')).toEqual({ result: expect.any(Number) })
    for (const path of ['/xgroup/destroy/s/g', '/script/flush', '/xreadgroup/GROUP/g/c/STREAMS/s/>']) {
      expect(await read(path)).toEqual({ error: expect.stringMatching(/^NOPERM/) })
    }
  } finally {
    await mixed.close()
  }
})

test('methods other than GET, HEAD, POST and PUT are a 405', async () => {
  const headers = { authorization: `Bearer ${newToken()}` }
  expect((await fetch(`${emulator.url}/get/a`, { method: 'DELETE', headers })).status).toBe(405)
  expect((await fetch(`${emulator.url}/get/a`, { method: 'HEAD', headers })).status).toBe(200)
  expect((await fetch(`${emulator.url}/set/a`, { method: 'PUT', headers, body: 'x' })).status).toBe(200)
})

test('base64 encodes every string, however deep, but not OK, numbers and null', async () => {
  const token = newToken()
  expect((await send(emulator, token, '/set/a/x', undefined, base64)).json).toEqual({ result: 'OK' })
  expect((await send(emulator, token, '/ping', undefined, base64)).json).toEqual({ result: btoa('PONG') })
  const script = JSON.stringify(['EVAL', "return { 'a', 7, { 'b', false } }", 0])
  expect((await send(emulator, token, '/', script, base64)).json).toEqual({ result: [btoa('a'), 7, [btoa('b'), null]] })
  expect((await send(emulator, token, '/pipeline', '[["GET","a"],["GET"]]', base64)).json).toEqual([
    { result: btoa('x') },
    { error: "ERR wrong number of arguments for 'get' command" },
  ])
  expect((await send(emulator, token, '/multi-exec', '[["GET","a"]]', base64)).json).toEqual([{ result: btoa('x') }])
})

test('resp2 answers as Redis would over TCP', async () => {
  const token = newToken()
  const raw = async (path: string, body?: string) => {
    const { response } = await send(emulator, token, path, body, resp2)
    expect(response.headers.get('content-type')).toBe('application/octet-stream')
    return response.text()
  }
  expect(await raw('/set/a/x')).toBe('+OK\r\n')
  expect(await raw('/get/a')).toBe('$1\r\nx\r\n')
  expect(await raw('/get/none')).toBe('$-1\r\n')
  expect(await raw('/strlen/a')).toBe(':1\r\n')
  expect(await raw('/mget/a/none')).toBe('*2\r\n$1\r\nx\r\n$-1\r\n')
  expect(await raw('/get')).toBe("-ERR wrong number of arguments for 'get' command\r\n")
  expect(await raw('/', '["NO\\r\\nPE"]')).toMatch(/^-[^\r\n]+\r\n$/)
  expect(await raw('/pipeline', '[["GET","a"],["STRLEN","a"]]')).toBe('$1\r\nx\r\n:1\r\n')
})

test('unknown formats, and formats that exclude each other, are refused', async () => {
  const token = newToken()
  expect((await send(emulator, token, '/ping', undefined, { ...resp2, ...base64 })).status).toBe(400)
  expect((await send(emulator, token, '/ping', undefined, { 'upstash-response-format': 'resp3' })).status).toBe(400)
  expect((await send(emulator, token, '/ping', undefined, { 'upstash-encoding': 'base32' })).status).toBe(400)
})

test('a body over 10 MB is refused, one just below is not', async () => {
  const token = newToken()
  const limit = 10 * 1024 * 1024
  expect((await send(emulator, token, '/set/big', 'x'.repeat(limit))).json).toEqual({ result: 'OK' })
  expect((await send(emulator, token, '/strlen/big')).json).toEqual({ result: limit })
  const { status, json } = await send(emulator, token, '/set/big', 'x'.repeat(limit + 1))
  expect(status).toBe(413)
  const message = `ERR max request size exceeded. Limit: ${limit} bytes, Actual: ${limit + 1} bytes`
  expect(json).toEqual({ error: expect.stringContaining(message) })
})

test('the key-locking flag is accepted and the SHA is that of the original', async () => {
  const { redis } = newClient(emulator)
  const script = '#!lua flags=allow-key-locking\nreturn ARGV[1]'
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-1', new TextEncoder().encode(script)))
  const sha = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('')
  await expect(redis.evalsha(sha, [], ['x'])).rejects.toThrow('NOSCRIPT')
  expect(await redis.scriptLoad(script)).toBe(sha)
  expect(await redis.scriptExists(sha)).toEqual([1])
  expect(await redis.evalsha(sha, [], ['x'])).toBe('x')
  expect(await redis.evalshaRo(sha, [], ['y'])).toBe('y')
  await redis.scriptFlush()
  await expect(redis.evalsha(sha, [], ['x'])).rejects.toThrow('NOSCRIPT')
  const both = await redis.pipeline().eval(script, [], ['a']).evalsha(sha, [], ['b']).exec()
  expect(both).toEqual(['a', 'b']) // EVAL makes it known to the next command
})

test('other flags are enforced, and errors name the line and the SHA of the original', async () => {
  const { redis } = newClient(emulator)
  expect(await redis.eval('#!lua flags=no-writes,allow-key-locking\nreturn 1', [], [])).toBe(1)
  await expect(redis.eval('#!lua flags=allow-key-locking\n\nretur 1', [], [])).rejects.toThrow('user_script:3:')
  const failing = '#!lua flags=allow-key-locking\nreturn redis.call("INCR", KEYS[1], 1)'
  const sha = await redis.scriptLoad(failing)
  await expect(redis.eval(failing, ['n'], [])).rejects.toThrow(`script: ${sha}`)
  await expect(redis.evalsha(sha, ['n'], [])).rejects.toThrow(`script: ${sha}`)
})

test('a monitor receives each command of its own keyspace', async () => {
  const token = newToken()
  const response = await fetch(`${emulator.url}/monitor`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}` },
  })
  expect(response.headers.get('content-type')).toBe('text/event-stream')
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  expect((await reader?.read())?.value).toBe('data: "OK"\n\n')
  await send(emulator, newToken(), '/set/secret/x')
  await send(emulator, token, '/set/k/v')
  expect((await reader?.read())?.value).toMatch(/^data: \d+\.\d{6} \[0 0\.0\.0\.0:0\] "set" "k" "v"\n\n$/)
  await reader?.cancel()
})

test('a subscription is a stream of events that begins with its confirmation', async () => {
  const token = newToken()
  const response = await fetch(`${emulator.url}/subscribe/chat?_token=${token}`)
  const reader = response.body?.pipeThrough(new TextDecoderStream()).getReader()
  expect((await reader?.read())?.value).toBe('data: subscribe,chat,1\n\n')
  expect((await send(emulator, token, '/publish/chat/hello')).json).toEqual({ result: 1 })
  expect((await reader?.read())?.value).toBe('data: message,chat,hello\n\n')
  await send(emulator, token, '/publish/chat', 'two\nlines')
  expect((await reader?.read())?.value).toBe('data: message,chat,two\ndata: lines\n\n')
  expect((await send(emulator, token, '/pubsub/numsub/chat/other')).json).toEqual({ result: ['chat', 1, 'other', 0] })
  await reader?.cancel()
})

test('a thousand requests at once are all answered, each with its own reply', async () => {
  const token = newToken()
  const replies = await Promise.all(
    Array.from(
      { length: 1_000 },
      async (_, i) => (await send(emulator, token, '/', JSON.stringify(['ECHO', `${i}`]))).json,
    ),
  )
  expect(replies).toEqual(Array.from({ length: 1_000 }, (_, i) => ({ result: `${i}` })))
})
