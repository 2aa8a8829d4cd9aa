/** The lists that sites have, from files and over real HTTP, and everything that can be wrong with one. */
import { execFileSync } from 'node:child_process'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { realHttp } from '../../coordinator/http.ts'
import { createLookup } from '../../coordinator/lookup/lookup.ts'
import { readSecret } from '../../coordinator/secrets.ts'
import { realClock } from '../api/world.ts'
import { TOKEN, json, record, startStandIn } from './stand-in.ts'
import { folder, listed, lookupOf, secretFile, settingsOf } from './world.ts'

const PAGE = {
  count: 2,
  next: null,
  results: [record(1, 'Host1'), record(2, 'host2', { status: { value: 'planned' } })],
}
const ANSIBLE = {
  _meta: { hostvars: { 'host1.example.com': { ansible_host: '10.0.0.11', env: 'prod' } } },
  all: { children: ['ungrouped', 'prod', 'empty'] },
  prod: { children: ['web', 'all'], vars: { a: 1 } },
  web: { hosts: ['host1.example.com', 'host2.example.com'] },
}
const SHAPES: readonly (readonly [string, unknown, string[]])[] = [
  ['names', ['h1', 'H2', 'h1'], ['h1 []', 'h2 []']],
  [
    'machines',
    [
      { name: 'h1', address: '10.0.0.1/24', site: 'x', tags: [] },
      { name: 'h2', addresses: ['2001:DB8::1'] },
    ],
    ['h1 [10.0.0.1]', 'h2 [2001:db8::1]'],
  ],
  ['ansible-inventory --list', ANSIBLE, ['host1.example.com [10.0.0.11]', 'host2.example.com []']],
  ['a script of Ansible', { web: ['h1', 'h2'], db: { hosts: ['h2'] } }, ['h1 []', 'h2 []']],
  [
    'http_sd',
    [
      { targets: ['10.0.10.2:9100', '10.0.10.2:9256'], labels: { env: 'prod' } },
      { targets: ['[2001:db8::5]:9100', 'web-1:9100', 'web-1.'] },
    ],
    ['null [10.0.10.2]', 'null [2001:db8::5]', 'web-1 []'],
  ],
  ['a page of NetBox', PAGE, ['host1 [10.0.1.1]', 'host2 [10.0.1.2] (planned)']],
]

function lines(t: Test, text: string | Buffer, more = ''): string {
  const file = join(folder(t), 'list.json')
  writeFileSync(file, text)
  return `source = "file"\nfile = "${file}"\n${more}`
}

t.test('[LKP-1] each list that sites have is told by its shape, from a file and over HTTP', async (t) => {
  const standIn = await startStandIn(t)
  for (const [what, document, expected] of SHAPES) {
    t.same(await listed(lines(t, JSON.stringify(document))), expected, what)
    standIn.answer = (_request, response) => json(response, document)
    t.same(await listed(`source = "http"\nurl = "${standIn.url}/list?x=1"`), expected, `${what}, over HTTP`)
  }
  t.same(await listed(lines(t, JSON.stringify(ANSIBLE), 'domains = ["example.com"]')), [
    'host1 [10.0.0.11]',
    'host2 []',
  ])
  t.same(await listed(lines(t, '["rack A/1", "h1"]')), ['h1 []'], 'what can be no machine of smith is passed over')
})

t.test('[LKP-2] a list that is empty, cut off, of another shape or too long is refused whole', async (t) => {
  const bad: readonly (readonly [unknown, RegExp])[] = [
    [[], /names no machine at all/],
    [{ _meta: { hostvars: {} }, all: { children: ['ungrouped'] } }, /names no machine at all.*could not be read/],
    [{ all: { hosts: 'h1' } }, /group all without a list of hosts/],
    [['h1', 7], /at place 1 no name/],
    [['h1', { name: 'h2' }], /at place 1 no name/],
    [[{ name: 'h1' }, { address: '10.0.0.1' }], /at place 2 no name/],
    [[{ name: 'h1', address: 7 }], /no text as the address of h1/],
    [[{ targets: ['h1:9100'] }, { targets: 'h2' }], /group without a list of targets/],
    [{ detail: 'Not found.' }, /shape that smith does not know.*Not found/],
    [{ count: 3, next: null, results: [record(1, 'h1')] }, /one page of a longer list \(1 of 3\)/],
    [{ count: 1, next: 'http://x/?offset=1', results: [record(1, 'h1')] }, /one page of a longer list/],
    [{ count: 1, next: null, results: [{ id: 1, name: 'h1' }] }, /says no status of machine 1/],
    [7, /shape that smith does not know/],
  ]
  for (const [document, reason] of bad) t.match(await listed(lines(t, JSON.stringify(document))), reason)
  t.match(await listed(lines(t, '["h1", "h2"')), /holds no whole JSON/)
  t.match(await listed(lines(t, Buffer.from([0x22, 0xff, 0x22]))), /not valid/)
  t.match(await listed(lines(t, JSON.stringify(['h1', 'h2', 'h3']), 'machines = 2')), /names more than 2 machines/)
  t.match(await listed(lines(t, `["h1"]${' '.repeat(2000)}`, 'bytes = 1024')), /more than 1024 bytes/)
  const dir = folder(t)
  t.match(await listed(`source = "file"\nfile = "${join(dir, 'none')}"`), /ENOENT/)
  t.match(await listed(`source = "file"\nfile = "${dir}"`), /is no file/)
  execFileSync('mkfifo', [join(dir, 'pipe')])
  t.match(await listed(`source = "file"\nfile = "${join(dir, 'pipe')}"`), /is no file/)
})

t.test('[LKP-3] an answer over HTTP that is no whole list in time says what it is and what to do', async (t) => {
  const standIn = await startStandIn(t)
  const token = secretFile(t)
  const ask = (more = '') =>
    listed(`source = "http"\nurl = "${standIn.url}/list?key=hidden"\ntoken_file = "${token}"\n${more}`)
  const type = { 'content-type': 'application/json' }
  const cases: readonly (readonly [(typeof standIn)['answer'], RegExp])[] = [
    [(_q, r) => (r.writeHead(200, { 'content-type': 'text/html' }).end('<html>Log in'), true), /answers a web page/],
    [(_q, r) => (r.writeHead(200, type).end('<html>Log in'), true), /answers a web page/],
    [(_q, r) => (r.writeHead(200, type).end('["h1", "h2'), true), /answers no whole JSON/],
    [
      (_q, r) => (r.writeHead(200, { 'content-type': 'text/plain' }).end('["h1"]'), true),
      /text\/plain, and not application\/json/,
    ],
    [
      (_q, r) => (r.writeHead(302, { location: 'https://login.example/x?y=z' }).end(), true),
      /redirects to https:\/\/login.example\/x \|/,
    ],
    [(_q, r) => (r.writeHead(301).end(), true), /redirects to nowhere/],
    [(_q, r) => json(r, { detail: 'Token expired' }, 403), /does not let smith in \(403\): Token expired/],
    [(_q, r) => json(r, {}, 401), /does not let smith in \(401\)/],
    [(_q, r) => (r.writeHead(429, { ...type, 'retry-after': '7' }).end('{}'), true), /rate limit \(429\).*wait 7/],
    [(_q, r) => json(r, {}, 404), /answers 404.*see lookup.url/],
    [(_q, r) => (r.writeHead(503).end(), true), /answers 503.*see that it is well/],
    [(_q, r) => (r.writeHead(204).end(), true), /answers 204/],
    [
      (_q, r) => (r.writeHead(200, { ...type, 'content-length': '99' }).write('["h1"]', () => r.destroy()), true),
      /can't be read/,
    ],
    [(_q, r) => (r.destroy(), true), /can't be read: socket hang up/],
    [
      (_q, r) =>
        json(
          r,
          Array.from({ length: 500 }, (_, index) => `host${index}`),
        ),
      /more than 1024 bytes/,
    ],
  ]
  for (const [answer, reason] of cases) {
    standIn.answer = answer
    const said = await ask('bytes = 1024')
    t.match(said, reason)
    t.notMatch(said, /hidden|0123456789/)
  }
  standIn.answer = () => true
  t.match(await ask('timeout = 0.05'), /no answer within 0.1 s/)
  t.notOk(lookupOf(`source = "http"\nurl = "${standIn.url}/list?key=hidden"`).source.includes('hidden'))
})

t.test(
  '[LKP-4] the token goes as its kind wants it, from a file that only smith may read, and nowhere else',
  async (t) => {
    const standIn = await startStandIn(t)
    standIn.answer = (_request, response) => json(response, ['h1'])
    const file = secretFile(t)
    const list = `source = "http"\nurl = "${standIn.url}/list"\n`
    await listed(list)
    await listed(`${list}token_file = "${file}"`)
    await listed(`${list}token_file = "${file}"\nuser = "smith"`)
    await listed(`source = "netbox"\nurl = "${standIn.url}"\ntoken_file = "${file}"`)
    writeFileSync(file, '0123456789012345678901234567890123456789')
    await listed(`source = "netbox"\nurl = "${standIn.url}"\ntoken_file = "${file}"`)
    t.same(standIn.keys, [
      undefined,
      `Bearer ${TOKEN}`,
      `Basic ${Buffer.from(`smith:${TOKEN}`).toString('base64')}`,
      `Bearer ${TOKEN}`,
      'Token 0123456789012345678901234567890123456789',
    ])
    writeFileSync(file, 'two\nlines')
    const odd = await listed(`${list}token_file = "${file}"`)
    t.match(odd, /a character that no token has/)
    t.notMatch(odd, /lines/)
    chmodSync(file, 0o604)
    t.match(await listed(`${list}token_file = "${file}"`), /can't be asked: .*others can use it.*see lookup.token_file/)
    t.equal(standIn.keys.length, 5)
  },
)

t.test(
  '[LKP-25] however many ask, the source has one question at a time, and nobody an answer begun before',
  async (t) => {
    const begun: (() => void)[] = []
    const { lookup: settings, source } = settingsOf(`source = "file"\nfile = "/machines.json"`)
    const lookup = createLookup({
      ...{ settings, source, clock: realClock, http: realHttp, readSecret, now: () => begun.length },
      readFile: () => new Promise((resolve) => begun.push(() => resolve('["web-1"]'))),
    })
    const goOn = async () => {
      for (let turn = 0; turn < 10; turn += 1) await new Promise((resolve) => setImmediate(resolve))
    }
    const first = lookup.ask()
    const later = [lookup.ask(), lookup.ask(), lookup.ask()]
    await goOn()
    t.equal(begun.length, 1)
    begun[0]?.()
    await goOn()
    t.equal(begun.length, 2, 'three share one')
    const last = lookup.ask()
    begun[1]?.()
    await goOn()
    begun[2]?.()
    t.same(
      (await Promise.all([first, ...later, last])).map(({ at }) => at),
      [0, 1, 1, 1, 2],
    )
    t.equal(begun.length, 3)
    void lookup.ask()
    await goOn()
    t.equal(begun.length, 4, 'and it goes on')
    begun[3]?.()
  },
)
