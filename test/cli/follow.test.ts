/** What stays: logs, the feed, watching and waiting, over lost connections and until the end. */
import { stripVTControlCharacters } from 'node:util'
import t from 'tap'
import type { RunRecord } from '../../protocol/files.ts'
import type { ProjectView } from '../../protocol/http.ts'
import { type FakeCoordinator, problem } from './fake-coordinator.ts'
import { type Home, setUp } from './run-cli.ts'
import * as s from './samples.ts'

type Process = ReturnType<Home['start']>

const texts = new WeakMap<Process, { stdout: string; stderr: string; look: () => void }>()

/** Starts a verb and keeps what it says from the first moment on. */
function start(home: Home, args: readonly string[]): Process {
  const child = home.start(args)
  const said = { stdout: '', stderr: '', look: () => {} }
  texts.set(child, said)
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream].on('data', (chunk: Buffer) => {
      said[stream] += chunk.toString('utf8')
      said.look()
    })
  }
  return child
}

/** Resolves as soon as the stream has said what is waited for; the process' own time limit bounds it. */
function untilSaid(child: Process, stream: 'stdout' | 'stderr', what: RegExp | string): Promise<string> {
  const said = texts.get(child)
  if (said === undefined) throw new Error('not started with start()')
  return new Promise((resolve, reject) => {
    said.look = () => {
      const text = said[stream]
      if (typeof what === 'string' ? text.includes(what) : what.test(text)) resolve(text)
    }
    said.look()
    void child.then(() => reject(new Error(`ended before ${String(what)}: ${said.stdout}${said.stderr}`)))
  })
}

/** One order whose records a test lets grow. */
function serveLog(fake: FakeCoordinator, records: readonly RunRecord[], limit = 1000) {
  fake.on('projectOrders', () => ({ orders: [s.order('3', 'web-1', records.length)] }))
  fake.on('machineOrders', () => ({ orders: [s.order('3', 'web-1', records.length)] }))
  fake.on('log', (call) => s.page('3', records, call.query['after'], limit))
}
const running = () =>
  s.projectView('running', [s.machineStatus('web-1', 'running', { step: 'install', startedAt: s.AT })])
const closed = (state: 'complete' | 'failed' | 'cancelled' = 'complete') =>
  s.projectView(state, [s.machineStatus('web-1', state === 'complete' ? 'succeeded' : 'failed')])

const everyKind: RunRecord[] = [
  { n: 1, at: s.AT, type: 'step', step: 'install' },
  s.line(2, 'Setting up bash (5.2) ...\n'),
  { n: 3, at: s.AT, type: 'progress', step: 'install', percent: 40, label: 'bash' },
  s.line(4, 'evil \x1b[2J\u202e\r\n'),
  {
    n: 5,
    at: s.AT,
    type: 'line',
    step: 'install',
    offset: 0,
    base64: Buffer.from([0x61, 0xff, 0x0a]).toString('base64'),
  },
  { n: 6, at: s.AT, type: 'hole', offset: 9, bytes: 34, reason: 'bound' },
  { n: 7, at: s.AT + 60_000, type: 'note', step: 'install', text: 'no output for 15 minutes \x07' },
  {
    n: 8,
    at: s.AT + 60_000,
    type: 'result',
    outcome: 'failed',
    cause: 'disk',
    step: 'install',
    message: 'no space',
    evidence: ['dpkg: error \x1b[1m'],
    advice: ['df -h /'],
    latched: true,
    rebootPending: false,
    installed: [],
    outputBytes: 1,
    outputSha256: s.hash('1'),
  },
]

t.test(
  '[CLI-7] logs come in order with machine and step in front, and nothing in them acts on a terminal',
  async (t) => {
    const { fake, home } = await setUp(t)
    serveLog(fake, everyKind, 3)
    const ended = await home.run(['logs', s.CHANGE])
    t.equal(ended.status, 0)
    t.equal(
      ended.out,
      [
        '22:13:20 web-1 install     == step install',
        '22:13:20 web-1 install     Setting up bash (5.2) ...',
        '22:13:20 web-1 install     evil \\x1b[2J\\u{202e}\\r',
        '22:13:20 web-1 install     a\\xff',
        '22:13:20 web-1 -           == 34 bytes are missing here (over the bound)',
        '22:14:20 web-1 install     == no output for 15 minutes \\x07',
        '22:14:20 web-1 install     == failed (disk): no space',
        '22:14:20 web-1 install     ==   dpkg: error \\x1b[1m',
        '22:14:20 web-1 install     ==   do: df -h /',
        '',
      ].join('\n'),
    )
    t.equal((await home.run(['logs', 'web-1'])).out, ended.out, 'of a machine')
    const json = (await home.run(['logs', s.CHANGE, '--json'])).out.trimEnd().split('\n')
    t.same(
      json.map((text) => (JSON.parse(text) as RunRecord).n),
      [1, 2, 3, 4, 5, 6, 7, 8],
    )
    const since = await home.run(['logs', s.CHANGE, '--since', '1s'])
    t.same([since.status, since.out], [0, ''], 'all of it is older')
  },
)

t.test('[CLI-8] --raw is the very bytes and nothing else, and not for a terminal', async (t) => {
  const { fake, home } = await setUp(t)
  serveLog(fake, everyKind)
  const ended = await home.start(['logs', s.CHANGE, '--raw'])
  t.equal(ended.exitCode, 0)
  t.match(ended.stdout.replace('\x1b', 'ESC'), /^Setting up bash \(5\.2\) \.\.\.\nevil ESC\[2J\u202e\r\na.\n$/)
  t.match(ended.stderr, '34 bytes are missing at offset 9')
  t.match(await home.terminal(['logs', s.CHANGE, '--raw']), { status: 2, out: /--raw would let packages write/ })
})

t.test('[CLI-9] --follow shows each line once and in order, whatever happens to the connection', async (t) => {
  const { fake, home } = await setUp(t)
  const records: RunRecord[] = [s.line(1, 'line 1\n'), s.line(2, 'line 2\n')]
  serveLog(fake, records, 2)
  let view = running()
  fake.on('project', () => view)
  const child = start(home, ['logs', s.CHANGE, '--follow'])
  await untilSaid(child, 'stdout', 'line 2')
  await fake.untilFeed(1)
  const grow = (upTo: number, tell: boolean) => {
    const from = records.length + 1
    while (records.length < upTo) records.push(s.line(records.length + 1, `line ${records.length + 1}\n`))
    if (tell) fake.push([s.appended('3', from, upTo)])
  }
  grow(5, true)
  await untilSaid(child, 'stdout', 'line 5')
  // Cut while lines are appended of which no fact ever arrives.
  fake.kick()
  grow(9, false)
  await fake.untilFeed(2)
  await untilSaid(child, 'stdout', 'line 9')
  fake.on('log', (call) => (call.nth % 2 === 0 ? 'drop' : s.page('3', records, call.query['after'], 2)))
  grow(14, true)
  await untilSaid(child, 'stdout', 'line 14')
  grow(15, false)
  view = closed()
  fake.push([{ fact: 'projectClosed', change: s.CHANGE }])
  const ended = await child
  t.equal(ended.exitCode, 0, 'it ends with the project')
  const shown = ended.stdout
    .trimEnd()
    .split('\n')
    .map((text) => Number(/line (\d+)$/.exec(text)?.[1]))
  t.same(
    shown,
    Array.from({ length: 15 }, (_, at) => at + 1),
  )
})

t.test('[CLI-9] a retry is followed into its new order', async (t) => {
  const { fake, home } = await setUp(t)
  const orders = [s.order('3', 'web-1', 1, { state: 'failed' })]
  fake.on('projectOrders', () => ({ orders }))
  fake.on('log', (call) =>
    s.page(call.params['order']?.[0] ?? '', [s.line(1, `of ${call.params['order']?.[0]}\n`)], call.query['after']),
  )
  let view = running()
  fake.on('project', () => view)
  const child = start(home, ['logs', s.CHANGE, '--follow'])
  await untilSaid(child, 'stdout', 'of 3')
  await fake.untilFeed(1)
  orders.push(s.order('4', 'web-1', 1, { attempt: 2 }))
  fake.push([{ fact: 'orderGranted', change: s.CHANGE, order: s.id('4') }])
  await untilSaid(child, 'stdout', 'of 4')
  view = closed()
  fake.push([{ fact: 'projectClosed', change: s.CHANGE }])
  t.equal((await child).exitCode, 0)
})

t.test('[CLI-10] the feed goes on where it was after a loss, and says when the epoch changed', async (t) => {
  const { fake, home } = await setUp(t)
  for (const reason of ['one', 'two', 'three']) fake.push([{ fact: 'paused', change: s.CHANGE, reason }], 'ann')
  const child = start(home, ['feed', '--since', '1'])
  await untilSaid(child, 'stdout', 'three')
  fake.kick()
  fake.push([{ fact: 'resumed', change: s.CHANGE, reason: 'four' }])
  await untilSaid(child, 'stdout', 'four')
  t.match(fake.feedUrls, [/since=1&epoch=e{32}$/, /since=3&epoch=e{32}$/])
  fake.loseRow()
  fake.push([{ fact: 'paused', change: s.CHANGE, reason: 'late' }])
  await untilSaid(child, 'stderr', 'rows 5 to 5 did not come')
  await untilSaid(child, 'stdout', 'late')
  fake.restoreDatabase(1)
  fake.kick()
  await untilSaid(child, 'stderr', /epoch changed from e{32} to f{32}/)
  fake.push([{ fact: 'frozen', reason: 'five' }])
  await untilSaid(child, 'stdout', 'five')
  child.kill('SIGINT')
  const ended = await child
  t.same(
    ended.stdout
      .trimEnd()
      .split('\n')
      .map((text) => /^(\d+) .*reason=(\w+)$/.exec(text)?.slice(1, 3)),
    [
      ['2', 'two'],
      ['3', 'three'],
      ['4', 'four'],
      ['6', 'late'],
      ['2', 'five'],
    ],
  )
  t.equal(ended.exitCode, 130)
})

t.test('[CLI-10] a feed that refuses ends with its reason, and a revision to come is refused', async (t) => {
  const { fake, home } = await setUp(t)
  t.match(await home.run(['feed', '--since', '99']), { status: 1, err: /revision 99 is not reached yet/ })
  const json = start(home, ['feed', '--json', '--since', '0'])
  fake.push([{ fact: 'frozen', text: 'a\u202eb' }])
  const said = await untilSaid(json, 'stdout', '\n')
  t.match(said, '\\u202e', 'no character of it acts on a terminal')
  t.match(JSON.parse(said), { rev: 1, facts: [{ fact: 'frozen', text: 'a\u202eb' }] })
  json.kill('SIGTERM')
  t.equal((await json).exitCode, 130)
  fake.on('who', () => problem(401, 'unauthenticated', 'the token is gone', 'smith login'))
  t.match(await home.run(['feed']), { status: 1, err: /^error: the token is gone\n/ })
})

t.test('[CLI-15] --wait ends with the project: 0 when every machine passed, else 1', async (t) => {
  const { fake, home } = await setUp(t)
  fake.on('requestMake', (call) => s.requestView(call.body['preview'] === true ? 'previewed' : 'raised'))
  const cases: [ProjectView, number][] = [
    [closed('complete'), 0],
    [closed('failed'), 1],
    [closed('cancelled'), 1],
    [s.projectView('complete', [s.machineStatus('web-1', 'succeeded'), s.machineStatus('web-2', 'failed')]), 1],
    [s.projectView('complete', [s.machineStatus('web-1', 'succeeded'), s.machineStatus('web-2', 'skipped')]), 0],
  ]
  for (const [view, status] of cases) {
    fake.on('project', () => view)
    const ended = await home.run(['patch', '--wait', 'prod machines: web-1 outage:0'])
    t.equal(ended.status, status, `${view.status.state} ${JSON.stringify(view.status.totals)}`)
    t.ok(ended.out.trimEnd().endsWith(view.text.trimEnd()), 'the whole status stands at the end')
  }
})

t.test('[CLI-15] elsewhere than on a terminal each change is one line, and a hold says how to lift it', async (t) => {
  const { fake, home } = await setUp(t)
  let view = running()
  fake.on('project', () => view)
  const child = start(home, ['status', s.CHANGE, '--watch'])
  await untilSaid(child, 'stdout', 'web-1 running install')
  await fake.untilFeed(1)
  const stop = {
    kind: 'hold',
    code: 'failed',
    reason: 'web-1 failed',
    since: s.AT,
    lift: 'smith retry CHG0268453 web-1',
    machine: 'web-1',
    until: null,
  } as const
  view = s.projectView('held', [s.machineStatus('web-1', 'failed', { cause: 'disk', message: 'no space' })], { stop })
  fake.push([{ fact: 'stopSet', change: s.CHANGE }])
  await untilSaid(child, 'stdout', 'Lift:')
  view = closed()
  fake.push([{ fact: 'projectClosed', change: s.CHANGE }])
  const ended = await child
  t.equal(ended.exitCode, 0)
  t.notMatch(ended.stdout, '\x1b')
  t.same(
    ended.stdout
      .replaceAll(/^\d\d:\d\d:\d\d /gm, '')
      .split('\n')
      .slice(0, 8),
    [
      'CHG0268453 running',
      'web-1 running install',
      'CHG0268453 held',
      'web-1 failed (disk): no space',
      'Held: web-1 failed',
      'Lift: smith retry CHG0268453 web-1',
      'CHG0268453 complete',
      'web-1 succeeded',
    ],
  )
})

t.test('[CLI-15] on a terminal the block is drawn in place and the cursor is given back', async (t) => {
  const { fake, home } = await setUp(t)
  serveLog(fake, [s.line(1, `long ${'x'.repeat(300)}\n`), s.line(2, 'evil \x1b[2J\n')])
  let view = running()
  fake.on('project', () => view)
  const child = home.terminal(['status', s.CHANGE, '--watch'], { columns: 50 })
  await fake.untilFeed(1)
  view = closed()
  fake.push([{ fact: 'projectClosed', change: s.CHANGE }])
  const ended = await child
  t.equal(ended.status, 0)
  t.ok(ended.out.startsWith('\x1b[?25l'))
  t.ok(ended.out.lastIndexOf('\x1b[?25h') > ended.out.lastIndexOf('\x1b[?25l'), 'the cursor is shown again')
  t.notMatch(ended.out, '\x1b[2J')
  const block = stripVTControlCharacters(ended.out.slice(0, ended.out.lastIndexOf('\x1b[?25h')))
  t.ok(
    block.split('\n').every((text) => text.replace('\r', '').length < 50),
    'no line is wider than the terminal',
  )
  t.ok(ended.out.trimEnd().includes('*Phase 0*'), 'the whole status stands at the end')
})

t.test('[CLI-15] Ctrl-C leaves the work alone, says how to come back and gives the cursor back', async (t) => {
  const { fake, home } = await setUp(t)
  serveLog(fake, [])
  fake.on('project', running)
  const typed = fake.untilFeed(1).then(() => '\x03')
  const ended = await home.terminal(['status', s.CHANGE, '--watch'], { input: typed })
  t.equal(ended.status, 130)
  t.match(ended.out, `smith status ${s.CHANGE} --watch`)
  t.ok(ended.out.lastIndexOf('\x1b[?25h') >= ended.out.lastIndexOf('\x1b[?25l'))
  t.same(
    fake.calls.filter((call) => !['who', 'project', 'projectOrders', 'log'].includes(call.name)),
    [],
  )
})

t.test('[CLI-15] a coordinator out of reach is said once and waited for', async (t) => {
  const { fake, home } = await setUp(t)
  let lose = false
  let view = running()
  fake.on('project', () => (lose ? 'drop' : view))
  const child = start(home, ['status', s.CHANGE, '--watch', '--json'])
  await untilSaid(child, 'stdout', '"running"')
  await fake.untilFeed(1)
  lose = true
  fake.push([{ fact: 'stepStarted', change: s.CHANGE }])
  await untilSaid(child, 'stderr', 'waiting for it')
  lose = false
  view = closed()
  const ended = await child
  t.equal(ended.exitCode, 0)
  t.equal(ended.stderr.match(/waiting for it/g)?.length, 1)
  t.match(ended.stderr, 'The coordinator is back.')
  const states = ended.stdout
    .trimEnd()
    .split('\n')
    .map((text) => (JSON.parse(text) as { state: string }).state)
  t.same(states, ['running', 'complete'], '[CLI-16] one JSON status for each change')
})
