/** The real client over real HTTP: what a network and a page in front of ServiceNow can do to an answer. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { type RequestListener, createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createClient } from '../../coordinator/change/servicenow/client.ts'
import { ServiceNowError } from '../../coordinator/change/servicenow/failures.ts'
import { realHttp } from '../../coordinator/http.ts'
import { readSecret } from '../../coordinator/secrets.ts'
import { SECRET, StandIn, serveStandIn } from './stand-in.ts'
import { settingsOf } from './settings.ts'

const clock = { wallNow: () => Date.now(), monotonicNow: () => performance.now(), after: () => () => {} }

function clientOf(url: string, lines = '') {
  return createClient({ settings: { ...settingsOf(lines), url }, http: realHttp, clock, readSecret: () => SECRET })
}

async function server(t: Test, answer: RequestListener): Promise<string> {
  const made = createServer(answer)
  await new Promise<void>((resolve) => made.listen(0, '127.0.0.1', resolve))
  t.teardown(() => {
    made.closeAllConnections()
    made.close()
  })
  return `http://127.0.0.1:${(made.address() as AddressInfo).port}`
}

const GET = { method: 'GET', path: '/api/now/table/change_request', what: 'reading' } as const
async function failureOf(doing: Promise<unknown>): Promise<ServiceNowError> {
  try {
    await doing
  } catch (error) {
    if (error instanceof ServiceNowError) return error
    throw error
  }
  throw new Error('it did not fail')
}

t.test('[SNW-24] with a token and with a password smith is let in, over real HTTP', async (t) => {
  const standIn = new StandIn()
  const { url, close } = await serveStandIn(standIn)
  t.teardown(close)
  const oauth = clientOf(url)
  t.same(await oauth.ask(GET), [])
  t.same(await oauth.ask(GET), [])
  t.equal(standIn.tokensGiven, 1, 'one token serves many')
  standIn.expireTokens()
  t.same(await oauth.ask(GET), [])
  t.equal(standIn.tokensGiven, 2)
  t.ok(Math.abs(oauth.skewMs() ?? Number.NaN) < 60_000)
  t.same(await clientOf(url, 'auth = "basic"\nuser = "smith"').ask(GET), [])
  const wrong = createClient({ settings: { ...settingsOf(), url }, http: realHttp, clock, readSecret: () => 'wrong' })
  t.match(await failureOf(wrong.ask(GET)), {
    kind: 'auth',
    message: /gives none \(401\): server_error: access_denied; .*client\.credential/,
  })
})

t.test('[SNW-25] each failure is told apart, and whether it may have been done all the same', async (t) => {
  const told = async (status: number, headers: Record<string, string>, body: string) => {
    const url = await server(t, (request, response) => {
      if (request.url === '/oauth_token.do')
        response.writeHead(200, { 'content-type': 'application/json' }).end('{"access_token":"x","expires_in":1799}')
      else response.writeHead(status, headers).end(body)
    })
    return failureOf(clientOf(url).ask(GET))
  }
  const json = { 'content-type': 'application/json' }
  const error = (message: string, detail: string | null) =>
    JSON.stringify({ error: { message, detail }, status: 'failure' })
  const html = '<html>Your instance is hibernating</html>'
  const cases: [string, number, Record<string, string>, string, object][] = [
    [
      'a page at 200',
      200,
      { 'content-type': 'text/html' },
      html,
      { kind: 'page', isAmbiguous: true, message: /hibernating/ },
    ],
    ['a login', 302, { location: 'https://login.example/' }, '', { kind: 'page' }],
    ['JSON without a result', 200, json, '{}', { kind: 'page' }],
    ['JSON that is none', 200, json, '{"result":', { kind: 'page' }],
    [
      'another table',
      400,
      json,
      error('Invalid table x', null),
      { kind: 'refused', isAmbiguous: false, message: /Invalid table x/ },
    ],
    [
      'not there',
      404,
      json,
      error('No Record found', "Record doesn't exist or ACL restricts the record retrieval"),
      { kind: 'not-found' },
    ],
    [
      'a rule',
      403,
      json,
      error('Operation Failed', "aborted by Business Rule 'Change Model: Check State Transition^b6'"),
      { kind: 'rule' },
    ],
    [
      'a policy',
      403,
      json,
      error('Operation Failed', 'Data Policy Exception: The following fields are mandatory: Resolution code'),
      { kind: 'policy', message: /Resolution code/ },
    ],
    [
      'a right',
      403,
      json,
      error('User Not Authorized', 'Failed API level ACL Validation'),
      { kind: 'acl', isAmbiguous: false },
    ],
    [
      'a limit',
      429,
      { ...json, 'retry-after': '7' },
      error('Rate limit exceeded', null),
      { kind: 'rate', retryMs: 7000 },
    ],
    [
      'a limit until an instant',
      429,
      { ...json, 'x-ratelimit-reset': String(Math.floor(Date.now() / 1000) + 1000) },
      error('Rate limit exceeded', null),
      { kind: 'rate' },
    ],
    ['a limit without a word', 429, json, '', { kind: 'rate', retryMs: 60_000 }],
    ['a breakdown', 502, { 'content-type': 'text/html' }, html, { kind: 'server', isAmbiguous: true }],
    [
      'a second factor',
      401,
      { ...json, 'x-mfa_token': 'invalid' },
      error('User Not Authenticated', null),
      { kind: 'auth', message: /second factor/ },
    ],
  ]
  for (const [what, status, headers, body, expected] of cases)
    t.match(await told(status, headers, body), expected, what)
})

t.test(
  '[SNW-26] an answer that never comes, is cut or too large is none, and a refused connection did nothing',
  async (t) => {
    const silent = await server(t, () => {})
    t.match(await failureOf(clientOf(silent, 'timeout = 0.2').ask(GET)), {
      kind: 'unreachable',
      isAmbiguous: true,
      message: /no answer within/,
    })
    const cut = await server(t, (_request, response) => void response.destroy())
    t.match(await failureOf(clientOf(cut).ask(GET)), { kind: 'unreachable', isAmbiguous: true })
    const large = await server(t, (_request, response) => {
      response.writeHead(200, { 'content-type': 'application/json' })
      for (let piece = 0; piece < 20; piece += 1) response.write('x'.repeat(1024 * 1024))
      response.end()
    })
    t.match(await failureOf(clientOf(large).ask(GET)), { kind: 'unreachable', message: /more than/ })
    const gone = createServer()
    await new Promise<void>((resolve) => gone.listen(0, '127.0.0.1', resolve))
    const { port } = gone.address() as AddressInfo
    await new Promise((resolve) => gone.close(resolve))
    t.match(await failureOf(clientOf(`http://127.0.0.1:${port}`).ask(GET)), { kind: 'unreachable', isAmbiguous: false })
  },
)

t.test('[SNW-27] a secret that is missing, empty or open to everybody is not used', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'smith-secret-'))
  t.teardown(() => rmSync(dir, { recursive: true }))
  const file = join(dir, 'secret')
  t.throws(() => readSecret(file), /ENOENT/)
  writeFileSync(file, '\n', { mode: 0o600 })
  t.throws(() => readSecret(file), /is empty/)
  writeFileSync(file, 'word\n')
  t.equal(readSecret(file), 'word')
  chmodSync(file, 0o644)
  t.throws(() => readSecret(file), /others can use it.*chmod/)
})
