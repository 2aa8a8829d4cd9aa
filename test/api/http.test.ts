/**
 * How the interface speaks HTTP: what it takes for a request, how it says no, the description that is made from
 * ROUTES, who it says that it is, and whether it can serve.
 */
import t from 'tap'
import { badKeyOf } from '../../coordinator/api/bodies.ts'
import { openApiDocument } from '../../coordinator/api/openapi.ts'
import { REQUEST_TEXT_MAX, ROUTES, type RouteName } from '../../protocol/http.ts'
import { compareText } from '../../protocol/natural-order.ts'
import { HEAD, type Loose, checkProblem, kindsOf, problemIn, speak } from './wire.ts'
import { createWorld } from './world.ts'

const NAMES = Object.keys(ROUTES) as RouteName[]

t.test('[API-5] every refusal has the form of RFC 9457, with every reason at once', async (t) => {
  const world = await createWorld(t)
  const answer = await world.call('userAdd', 'cy', { body: { name: 'UPPER', roles: ['king'], more: 1, ttlDays: 'x' } })
  t.equal(answer.status, 400)
  const problem = checkProblem(answer)
  t.same(
    problem.refusals.map((one) => [one.kind, one.subject]).toSorted(([, a = ''], [, b = '']) => compareText(a, b)),
    [
      ['unknown-key', 'more'],
      ['bad-value', 'name'],
      ['bad-value', 'roles.0'],
      ['bad-value', 'ttlDays'],
    ],
  )
  t.ok(problem.refusals.every((one) => one.remedy !== ''))
  t.equal(problem.title, 'Bad Request')
  t.equal(problem.type, 'about:blank')
  t.equal(answer.headers['cache-control'], 'no-store')
  const both = await world.ask('POST', '/api/v1/users?x=1', { token: world.tokens['cy'], body: { name: 'ok' } })
  t.same(
    checkProblem(both)
      .refusals.map((one) => one.subject ?? '')
      .toSorted(compareText),
    ['roles', 'x'],
    'query and body together',
  )
})

t.test('[API-5] an error of the coordinator shows nothing of itself, and one that ends says so', async (t) => {
  const broken = {
    status: () => {
      throw new Error('secret /path/to/file')
    },
    statusText: () => '',
  }
  const world = await createWorld(t, { ports: () => ({ views: broken }) })
  const answer = await world.call('project', 'vi', { params: { change: 'CHG0000001' } })
  t.equal(answer.status, 500)
  t.same(kindsOf(answer), ['internal'])
  t.notMatch(answer.text, /secret|path|Error:/)
  t.match(world.errors, [{ message: 'a call failed', fields: { err: { message: 'secret /path/to/file' } } }])
  const teapot = Object.assign(new Error('secret'), { statusCode: 418 })
  Object.assign(broken, {
    status: () => {
      throw teapot
    },
  })
  t.equal(
    (await world.call('project', 'vi', { params: { change: 'CHG0000001' } })).status,
    500,
    'only the framework may choose a status',
  )
})

t.test(
  '[API-6] an unknown path is answered with the nearest one, a wrong method with those that are right',
  async (t) => {
    const world = await createWorld(t)
    const near = async (path: string) => checkProblem(await world.ask('GET', path)).refusals[0]?.remedy ?? ''
    t.match(await near('/api/v1/project'), /did you mean \/api\/v1\/projects\?/)
    t.match(await near('/api/v1/project/CHG0000001/plan'), /did you mean \/api\/v1\/projects\/:change\/plan\?/)
    t.match(
      await near('/api/v1/orders/0123456789abcdef0123456789abcdef/logs'),
      /did you mean \/api\/v1\/orders\/:order\/log\?/,
    )
    t.notMatch(await near('/wp-login.php'), /did you mean/)
    t.equal((await world.ask('GET', `/${'x'.repeat(6000)}`)).status, 404)
    const wrong = async (method: string, path: string) => {
      const answer = await world.ask(method, path, { token: world.tokens['cy'] })
      t.equal(answer.status, 405, `${method} ${path}`)
      return answer.headers.allow
    }
    t.equal(await wrong('DELETE', '/api/v1/projects'), 'GET, HEAD')
    t.equal(await wrong('GET', '/api/v1/projects/CHG0000001/approve'), 'POST')
    t.equal(await wrong('PUT', '/api/v1/enrolments'), 'POST, GET, HEAD')
    t.equal(await wrong('OPTIONS', '/api/v1/projects'), 'GET, HEAD', 'no cross-origin page is told that it may')
    t.equal(await wrong('POST', '/healthz'), 'GET, HEAD')
    t.equal((await world.ask('PROPFIND', '/api/v1/projects')).status, 405)
    for (const path of ['/api/v1/projects/%zz', '/api/v1/projects/%ff'])
      t.equal((await world.ask('GET', path)).status, 400, path)
    t.equal((await world.ask('GET', `/api/v1/projects/${'x'.repeat(301)}`, { token: world.tokens['vi'] })).status, 414)
    t.equal((await world.ask('GET', '/agent')).status, 404, 'a WebSocket is no page')
    const none = await speak(
      world,
      `GET /other HTTP/1.1\r\n${HEAD('x')}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
    )
    t.equal(problemIn(none).status, 404)
    const noAgents = await speak(
      world,
      `GET /agent HTTP/1.1\r\n${HEAD('x')}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n`,
      'socket',
    )
    t.equal(problemIn(noAgents).status, 404, 'agents connect over TLS only')
  },
)

t.test('[API-6] HEAD is GET without its body', async (t) => {
  const world = await createWorld(t)
  const got = await world.ask('GET', '/api/v1/machines', { token: world.tokens['vi'] })
  const head = await world.ask('HEAD', '/api/v1/machines', { token: world.tokens['vi'] })
  t.same([head.status, head.text, head.headers['content-length']], [200, '', got.headers['content-length']])
  t.equal((await world.ask('HEAD', '/api/v1/machines')).status, 401)
  t.equal((await world.ask('HEAD', '/healthz')).status, 200)
})

t.test('[API-7] a body is one JSON object in UTF-8, of its type, with known keys, each once', async (t) => {
  const world = await createWorld(t)
  const token = world.tokens['cy']
  const post = (raw: string | Buffer, headers: Record<string, string> = {}) =>
    world.ask('POST', '/api/v1/freeze', { token, raw, headers })
  const refusedAs = async (raw: string | Buffer, kind: string, headers: Record<string, string> = {}) => {
    const answer = await post(raw, headers)
    t.same(kindsOf(answer), [kind], raw.toString().slice(0, 40))
    return answer.status
  }
  for (const bad of [
    '{',
    'null',
    '[]',
    '"x"',
    '1',
    '{"reason":1e999}x',
    Buffer.from([0x7b, 0xff, 0x7d]),
    '['.repeat(30_000),
  ])
    t.equal(await refusedAs(bad, 'malformed'), 400)
  t.equal(await refusedAs('{"reason":"a","reason":"b"}', 'duplicate-key'), 400)
  t.equal(await refusedAs(String.raw`{"reason":"a","re\u0061son":"b"}`, 'duplicate-key'), 400)
  for (const key of ['more', '__proto__', 'constructor', 'toString'])
    t.equal(await refusedAs(`{"${key}":1}`, 'unknown-key'), 400)
  for (const reason of ['""', '"  "', '7', 'null', `"${'x'.repeat(501)}"`])
    t.equal(await refusedAs(`{"reason":${reason}}`, 'bad-value'), 400)
  t.equal(await refusedAs('x'.repeat(65_537), 'too-large'), 413)
  t.equal(await refusedAs('reason=x', 'malformed', { 'content-type': 'application/x-www-form-urlencoded' }), 415)
  t.equal(await refusedAs('{}', 'malformed', { 'content-type': 'text/plain' }), 415)
  t.equal(await refusedAs('{}', 'malformed', { 'content-encoding': 'gzip' }), 415)
  t.equal(world.driver.view.get('instance', 'instance')?.frozen ?? null, null, 'none of these did anything')
  t.equal((await post('{}', { 'content-type': 'Application/JSON; charset=utf-8' })).status, 200)
  t.equal((await world.ask('POST', '/api/v1/unfreeze', { token })).status, 200, 'no body is an empty object')
  t.equal((await world.call('requestMake', 'ana', { body: { text: 'x'.repeat(REQUEST_TEXT_MAX + 1) } })).status, 400)
})

t.test('[API-7] a route without a body takes none, and a query has known keys, each once', async (t) => {
  const world = await createWorld(t)
  const token = world.tokens['vi']
  const get = (path: string, more: object = {}) => world.ask('GET', path, { token, ...more })
  t.equal((await get('/api/v1/machines', { body: {} })).status, 400)
  t.equal((await get('/api/v1/machines?other=1')).status, 400)
  t.equal((await get('/api/v1/machines?pattern=a&pattern=b')).status, 400)
  t.equal((await get('/api/v1/machines?__proto__=a')).status, 400)
  for (const query of ['limit=0', 'limit=1001', 'limit=x', 'limit=-1', 'before=1.5', 'limit=', 'limit=1e3'])
    t.equal((await get(`/api/v1/projects?${query}`)).status, 400, query)
  for (const wait of ['31', '-1', 'x', '0x1'])
    t.equal((await get(`/api/v1/requests/${'0'.repeat(32)}?wait=${wait}`)).status, 400, wait)
  const chunked = await speak(
    world,
    `GET /api/v1/machines HTTP/1.1\r\n${HEAD(token ?? '')}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\n{}\r\n0\r\n\r\n`,
  )
  t.equal(problemIn(chunked).status, 400)
})

t.test('[API-7] keys that stand twice are found at any depth and only in the same object', (t) => {
  t.equal(badKeyOf('{"a":{"b":1},"c":[{"b":1},{"b":2}]}'), null)
  t.same(badKeyOf('{"a":{"b":1,"x":"}","b":2}}'), { key: 'b', problem: 'twice' })
  t.same(badKeyOf(String.raw`{"\\":1,"\\":2}`), { key: '\\', problem: 'twice' })
  t.equal(badKeyOf('{"a":"\\",\\"a\\":","b":["a",{"a":1}]}'), null, 'text is no key')
  t.same(badKeyOf('{"a":{"valueOf":1}}'), { key: 'valueOf', problem: 'inherited' })
  t.end()
})

t.test('[API-11] the description covers every route exactly and says what each takes and gives', async (t) => {
  const world = await createWorld(t)
  const document = (await world.ask('GET', '/api/v1/openapi.json')).body
  t.same(document, openApiDocument('0.1.0'))
  t.equal(document.openapi, '3.1.0')
  const plain = ['/api/v1/openapi.json', '/healthz', '/readyz']
  for (const path of plain) t.match(document.paths[path].get, { operationId: /^[a-z]+$/, security: [] })
  const operations = Object.entries(document.paths)
    .filter(([path]) => !plain.includes(path))
    .flatMap(([path, item]) =>
      Object.entries(item as object).map(([method, operation]) => ({ path, method, operation })),
    )
  t.same(
    operations.map(({ operation }) => operation.operationId as string).toSorted(compareText),
    NAMES.toSorted(compareText),
    'each once',
  )
  for (const { path, method, operation } of operations) {
    const name = operation.operationId as RouteName
    const route = ROUTES[name]
    t.equal(`${method.toUpperCase()} ${path}`, `${route.method} ${route.path.replaceAll(/:([a-z]+)/g, '{$1}')}`)
    const inPath = operation.parameters
      .filter((one: { in: string }) => one.in === 'path')
      .map((one: { name: string }) => one.name)
    t.same(
      inPath,
      [...path.matchAll(/\{([a-z]+)\}/g)].map((match) => match[1]),
    )
    t.equal(operation.requestBody === undefined, route.body === null, name)
    t.same(operation.security, typeof route.roles === 'string' ? [] : [{ token: [] }])
    t.ok(operation.summary.length > 10 && operation.responses.default !== undefined)
    const success = operation.responses[name === 'requestMake' ? '202' : '200']
    t.same(emptySchemas(success.content['application/json'].schema), [], `${name} answers`)
    if (operation.requestBody !== undefined)
      t.same(emptySchemas(operation.requestBody.content['application/json'].schema), [], `${name} takes`)
  }
  for (const reference of referencesIn(document)) t.not(lookUp(document, reference), undefined, reference)
  const required = (name: string) =>
    operations.find(({ operation }) => operation.operationId === name)?.operation.requestBody.required
  t.same([required('approve'), required('pause')], [true, false])
})

/** The places of schemas that say nothing. */
function emptySchemas(schema: unknown, path = '$'): string[] {
  if (typeof schema !== 'object' || schema === null) return [path]
  const record = schema as Loose
  if (typeof record['$ref'] === 'string') return []
  const some = ['type', 'const', 'enum', 'anyOf', 'oneOf', 'allOf'].some((key) => record[key] !== undefined)
  const inner: [string, unknown][] = [
    ...Object.entries(record['properties'] ?? {}),
    ...['items', 'additionalProperties'].flatMap((key): [string, unknown][] =>
      typeof record[key] === 'object' ? [[key, record[key]]] : [],
    ),
    ...['anyOf', 'oneOf', 'allOf'].flatMap((key) =>
      ((record[key] ?? []) as unknown[]).map((one, index): [string, unknown] => [`${key}.${index}`, one]),
    ),
  ]
  return [...(some ? [] : [path]), ...inner.flatMap(([key, one]) => emptySchemas(one, `${path}.${key}`))]
}

function referencesIn(value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([key, one]) =>
    key === '$ref' && typeof one === 'string' ? [one] : referencesIn(one),
  )
}

function lookUp(document: unknown, reference: string): unknown {
  return reference
    .replace(/^#\//, '')
    .split('/')
    .reduce<Loose>((at, key) => at?.[key.replaceAll('~1', '/').replaceAll('~0', '~')], document)
}

t.test('[API-11] the coordinator says who asks, which instance answers and how others reach it', async (t) => {
  const world = await createWorld(t, { ports: () => ({ host: '127.0.0.1' }) })
  const { body } = await world.call('who', 'bo')
  t.match(body, {
    instance: 'test',
    name: 'bo',
    roles: ['approver'],
    version: '0.1.0',
    epoch: world.store.epoch,
    host: '127.0.0.1',
    port: world.port,
  })
  t.equal(body.pin, world.ports.pin)
  const everywhere = await createWorld(t)
  t.notOk('host' in (await everywhere.call('who', 'vi')).body, 'one that listens on every address names none')
})

t.test('[API-12] health and readiness need no token; a coordinator that can not serve says why with 503', async (t) => {
  let reason: string | null = null
  const world = await createWorld(t, { ports: () => ({ readiness: () => reason }) })
  for (const path of ['/healthz', '/readyz']) t.same((await world.ask('GET', path)).body, { ok: true })
  reason = 'the coordinator failed: disk full'
  const answer = await world.ask('GET', '/readyz')
  t.equal(answer.status, 503)
  t.match(answer.text, /disk full/)
  t.equal((await world.ask('GET', '/healthz')).status, 200, 'it is alive all the same')
})

t.test('[API-12] a turn that can not be committed is answered with 503, and nothing of it was done', async (t) => {
  const world = await createWorld(t)
  Object.assign(world.store, {
    commit: () => {
      throw new Error('no space left in /secret')
    },
  })
  const answer = await world.call('freeze', 'cy')
  t.equal(answer.status, 503)
  t.same(kindsOf(answer), ['unavailable'])
  t.notMatch(answer.text, /secret/)
  t.equal(world.fatal.length, 1)
  t.equal((await world.ask('GET', '/readyz')).status, 503)
  t.equal((await world.call('who', 'vi')).status, 200, 'what is known can still be read')
})
