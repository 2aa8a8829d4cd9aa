/** The programs as a person or a script runs them, against a coordinator of the tests: words, streams, exit status. */
import type { Command } from 'commander'
import t from 'tap'
import { buildProgram } from '../../coordinator/cli/program.ts'
import { type FakeCoordinator, problem, startFake } from './fake-coordinator.ts'
import { golden, makeHome, setUp } from './run-cli.ts'
import * as s from './samples.ts'

const REQUEST = 'prod machines: web-1 outage:0'

/** Previews at once and raises at once. */
function serveRequests(fake: FakeCoordinator, names: readonly string[] = ['web-1']) {
  const plan = s.planView(names.map((name) => s.planEntry(name)))
  fake.on('requestMake', (call) =>
    s.requestView(call.body['preview'] === true ? 'previewed' : 'raised', { plan, total: names.length }),
  )
}
const twoLines = /^error: .+\n {3}do: .+\n$/

t.test('[CLI-1] exit status 2 for usage, with one line what and one line what to do', async (t) => {
  const { home, fake } = await setUp(t)
  const wrong = [
    ['bogus'],
    ['status', '--bogus'],
    ['approve'],
    ['skip', s.CHANGE, 'web-1'],
    ['status', 'CHG1'],
    ['retry', s.CHANGE, 'no_name'],
    ['resolve', s.CHANGE, 'web-1', '--as', 'fine', '--reason', 'r'],
    ['logs', s.CHANGE, '--since', 'yesterday'],
    ['feed', '--since', 'x'],
    ['patch'],
    ['status', '--watch'],
    ['enrol', 'new'],
    ['user', 'add', 'bob', '--role', 'king'],
    ['completion', 'tcsh'],
    ['--instance', 'stage', 'machines'],
    ['--timeout', 'soon', 'machines'],
    ['login', '--url', 'http://x', '--pin', 'p'],
  ]
  await Promise.all(
    wrong.map(async (args) => {
      const ended = await home.run(args)
      t.equal(ended.status, 2, args.join(' '))
      t.match(ended.err, twoLines, args.join(' '))
      t.equal(ended.out, '')
    }),
  )
  t.equal(fake.calls.length, 0, 'nothing was asked')
})

t.test(
  '[CLI-23] an answer that says more than this smith knows is taken, one that lacks something is not',
  async (t) => {
    const { home, fake } = await setUp(t)
    fake.on('cancel', () => ({ raw: '{"done":true,"rev":7,"later":{"version":2}}', status: 200 }))
    t.equal((await home.run(['cancel', s.CHANGE])).status, 0)
    fake.on('cancel', () => ({ raw: '{"done":true,"later":1}', status: 200 }))
    t.equal((await home.run(['cancel', s.CHANGE])).status, 1)
  },
)

t.test('[CLI-1] exit status 1 for what was refused or failed, 3 for a coordinator out of reach', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('pause', () => problem(409, 'conflict', 'it is paused \x1b[2J already', 'smith resume CHG0268453'))
  fake.on('machines', () => problem(403, 'not-allowed', 'machines needs the role viewer', 'ask an admin'))
  fake.on('resume', () => ({ raw: '<html>', status: 502 }))
  fake.on('cancel', () => ({ raw: '{"done":1}', status: 200 }))
  const refused = await home.run(['pause', s.CHANGE])
  t.equal(refused.status, 1)
  t.equal(refused.err, golden(['error: it is paused \\x1b[2J already', '   do: smith resume CHG0268453']))
  t.match(await home.run(['machines']), { status: 1, err: /needs the role viewer\n {3}do: ask an admin\n$/ })
  t.match(await home.run(['resume', s.CHANGE]), { status: 1, err: /answered 502/ })
  t.match(await home.run(['cancel', s.CHANGE]), { status: 1, err: /not one that this smith understands \(done\)/ })
  const gone = await startFake()
  const other = makeHome({ prod: gone })
  t.teardown(other.remove)
  await gone.close()
  const lost = await other.run(['machines'])
  t.equal(lost.status, 3)
  t.match(lost.err, /^error: the coordinator at 127\.0\.0\.1:\d+ is out of reach: .+\n {3}do: Check the address.+\n$/)
})

t.test('[LKP-17] machines --missing says what differs, each way, or that nothing can', async (t) => {
  const { home, fake } = await setUp(t)
  const view = {
    source: 'NetBox at https://netbox.example.com',
    at: 1,
    notEnrolled: [{ name: 'web-2', addresses: ['10.0.0.2'], id: 'device 2' }],
    notKnown: ['web-3'],
  }
  fake.on('missing', () => view)
  const { out, status } = await home.run(['machines', '--missing'])
  t.equal(status, 0)
  t.match(out, /^NetBox at https:\/\/netbox\.example\.com: 1 not enrolled, 1 enrolled and not known to it\n/)
  t.match(out, /\nweb-2 +not enrolled +10\.0\.0\.2 +device 2\nweb-3 +not in the source +- +-\n$/)
  t.same(JSON.parse((await home.run(['machines', '--missing', '--json'])).out), view)
  fake.on('missing', () => ({ ...view, notEnrolled: [], notKnown: [] }))
  t.match(await home.run(['machines', '--missing']), { status: 0, out: /^No difference: NetBox at/ })
  fake.on('missing', () => ({ source: null, at: 1, notEnrolled: [], notKnown: [] }))
  t.match(await home.run(['machines', '--missing']), { status: 0, out: /^No source of machines is configured/ })
  fake.on('missing', () => problem(503, 'unavailable', 'NetBox answers 502', 'see that it is well'))
  t.match(await home.run(['machines', '--missing']), { status: 1, err: /NetBox answers 502\n {3}do: see/ })
  t.match(await home.run(['machines', 'web-1', '--missing']), { status: 2, err: /takes no pattern/ })
})

t.test('[CLI-1] help goes to stdout with an example for every verb', async (t) => {
  const { home } = await setUp(t)
  const top = await home.run(['--help'])
  t.equal(top.status, 0)
  const verbs = [...top.out.matchAll(/^ {2}([a-z]+) /gm)]
    .map(([, verb]) => verb ?? '')
    .filter((verb) => verb !== 'smith')
  t.ok(verbs.length > 18, verbs.join(' '))
  const seen = new Set<string>()
  const program = buildProgram({ context: () => t.fail('no verb runs'), status: 0 } as never)
  const visit = (command: Command, path: string) => {
    seen.add(path)
    for (const sub of command.commands) visit(sub, `${path} ${sub.name()}`)
    if (command.commands.length > 0 || command.name() === '__complete') return
    let help = ''
    command.configureOutput({ writeOut: (text) => (help += text) }).outputHelp()
    t.match(help, new RegExp(`Examples?:\\n  (source <\\()?${path}`), path)
    t.match(help, '--json', path)
  }
  visit(program, 'smith')
  for (const verb of verbs) t.ok(seen.has(`smith ${verb}`), verb)
  t.match(await home.run([]), { status: 2, err: /Usage: smith/ })
  t.match(await home.run(['enrol']), { status: 2, err: /Usage: smith enrol/ })
})

t.test('[CLI-2] every refusal of a request is shown at once, with a caret under its place', async (t) => {
  const { home, fake } = await setUp(t)
  const text = 'prod machines: foo web-1 outage:x'
  const refusals = [
    {
      kind: 'unknown-machine',
      message: 'no machine foo',
      subject: 'foo',
      position: { start: 15, end: 18 },
      remedy: 'nearest: web-1',
    },
    { kind: 'bad-value', message: 'outage: x is no number', position: { start: 32, end: 33 }, remedy: 'give minutes' },
  ] as const
  fake.on(
    'requestMake',
    () =>
      problem(400, 'bad-value', '', '', {}) && {
        problem: { type: 'about:blank', title: 'Bad Request', status: 400, refusals },
      },
  )
  const expected = golden([
    'error: no machine foo',
    '    prod machines: foo web-1 outage:x',
    '                   ^^^',
    '   do: nearest: web-1',
    'error: outage: x is no number',
    '    prod machines: foo web-1 outage:x',
    '                                    ^',
    '   do: give minutes',
  ])
  const asProblem = await home.run(['patch', ...text.split(' ')])
  t.same([asProblem.status, asProblem.err, asProblem.out], [1, expected, ''])
  fake.on('requestMake', () => s.requestView('planning'))
  fake.on('request', () =>
    s.requestView('refused', { text, plan: null, refusals: refusals.map((one) => ({ ...one })) }),
  )
  const asView = await home.run(['plan', text])
  t.same([asView.status, asView.err], [1, expected], 'refused while planning')
  t.equal(fake.calls[0]?.body['text'], text, 'words are joined by spaces')
})

t.test('[CLI-3] patch shows the plan, raises, and says the number of the change', async (t) => {
  const { home, fake } = await setUp(t)
  const changed = s.planEntry('web-3', {
    planHash: s.hash('e'),
    phase: 1,
    bag: 'web-3',
    warnings: ['disk \x1b[2J is low'],
    plan: {
      ...s.planEntry('web-3').plan,
      removes: [{ name: 'old', arch: 'all', version: '1' }],
      repairs: [{ name: 'half', arch: 'amd64', version: '2', state: 'half-configured' }],
      holds: ['linux-image'],
      rebootDue: true,
    },
  })
  const idle = { ...s.planEntry('x').plan, installs: [] }
  const machines = [
    s.planEntry('web-1'),
    s.planEntry('web-2'),
    changed,
    s.planEntry('web-4', { planHash: s.hash('f'), plan: idle }),
  ]
  const plan = s.planView(machines, { skipped: [{ name: 'web-9', reason: 'offline' }] })
  const preview = s.id('2')
  fake.on('requestMake', (call) =>
    call.body['preview'] === true ? s.requestView('planning', { request: preview }) : s.requestView('raising'),
  )
  fake.on('request', (call) => {
    if (call.nth === 0) return s.requestView('planning', { request: preview })
    return call.params['request'] === preview ? s.requestView('previewed', { plan }) : s.requestView('raised', { plan })
  })
  const ended = await home.run(['patch', ...REQUEST.split(' ')])
  t.equal(ended.status, 0)
  t.equal(
    ended.out,
    golden([
      'Request: prod machines: web-1 outage:0',
      'Build 725 in us-south, 4 machines, one after another:',
      '',
      '  1. web-1 (phase 0, bag prod-dal10-carrier3): 2 packages, 1.2 MB to download',
      '       install  bash:amd64      5.2.15-2 -> 5.2.15-3',
      '       install  libfresh:amd64  (new) -> 1.0',
      '',
      '  2. web-2 (phase 0, bag prod-dal10-carrier3): 2 packages, 1.2 MB to download',
      '       the same plan as web-1',
      '',
      '  3. web-3 (phase 1, bag web-3): 2 packages, 1 removal, 1 repair, 1.2 MB to download',
      '       install   bash:amd64      5.2.15-2 -> 5.2.15-3',
      '       install   libfresh:amd64  (new) -> 1.0',
      '       remove    old:all         1',
      '       repair    half:amd64      2 (half-configured)',
      '       apt hold  linux-image     kept back',
      '       a reboot is due',
      '       warning: disk \\x1b[2J is low',
      '',
      '  4. web-4 (phase 0, bag prod-dal10-carrier3): nothing to install',
      '',
      'Skipped, and not part of the plan:',
      '  web-9: offline',
      '',
      `Digest: ${s.hash('d')}`,
      'CHG0268453 raised for 4 machines.',
    ]),
  )
  const made = fake.calls.filter((call) => call.name === 'requestMake').map((call) => call.body['preview'])
  t.same(made, [true, undefined], 'previewed, then raised')
})

t.test('[CLI-3] smith-patch and smith-status are the same verbs', async (t) => {
  const { home, fake } = await setUp(t)
  serveRequests(fake)
  fake.on('projects', () => ({ instance: 'prod', frozen: null, projects: [] }))
  t.match(await home.run(REQUEST.split(' '), { program: 'smith-patch.ts' }), { status: 0, out: /CHG0268453 raised/ })
  t.match(await home.run([], { program: 'smith-status.ts' }), { status: 0, out: 'No projects.\n' })
})

t.test('[CLI-3] a person at a terminal is asked before several machines, and only then', async (t) => {
  const { home, fake } = await setUp(t)
  serveRequests(fake, ['web-1', 'web-2'])
  const raised = () => fake.calls.filter((call) => call.name === 'requestMake' && call.body['preview'] !== true).length
  const no = await home.terminal(['patch', REQUEST], { input: 'n\n' })
  t.match(no.out, /Raise a change for these 2 machines\? \[y\/N\]/)
  t.same([no.status, raised()], [1, 0], 'no')
  const yes = await home.terminal(['patch', REQUEST], { input: 'y\n' })
  t.same([yes.status, raised()], [0, 1], 'yes')
  const unasked = await home.terminal(['patch', '--yes', REQUEST])
  t.same([unasked.status, raised(), /\[y\/N\]/.test(unasked.out)], [0, 2, false], '--yes')
  const piped = await home.run(['patch', REQUEST])
  t.same([piped.status, raised(), /\[y\/N\]/.test(piped.out)], [0, 3, false], 'off a terminal')
  serveRequests(fake, ['web-1'])
  const single = await home.terminal(['patch', REQUEST])
  t.same([single.status, raised(), /\[y\/N\]/.test(single.out)], [0, 4, false], 'one machine')
})

t.test('[CLI-3] a plan that changed between preview and change is said', async (t) => {
  const { home, fake } = await setUp(t)
  const later = s.planView([s.planEntry('web-1')], { digest: s.hash('9') })
  fake.on('requestMake', (call) =>
    call.body['preview'] === true ? s.requestView('previewed') : s.requestView('raised', { plan: later }),
  )
  t.match(await home.run(['patch', REQUEST]), { status: 0, err: /plan changed .* 9{64}/ })
})

t.test('[CLI-4] a lost answer is asked for once more with the same key, so one change is raised', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('requestMake', (call) => {
    if (call.body['preview'] === true) return s.requestView('previewed')
    return call.nth === 1 ? 'drop' : s.requestView('raised')
  })
  const ended = await home.run(['patch', REQUEST])
  t.equal(ended.status, 0)
  const keys = fake.calls
    .filter((call) => call.body['preview'] !== true && call.name === 'requestMake')
    .map((call) => call.body['key'])
  t.equal(keys.length, 2)
  t.equal(keys[0], keys[1])
  t.not(fake.calls[0]?.body['key'], keys[0], 'the preview is another request')
  fake.on('requestMake', () => 'drop')
  fake.calls.length = 0
  t.match(await home.run(['patch', REQUEST]), { status: 3, err: twoLines })
  t.equal(fake.calls.length, 2, 'once more and no further')
})

t.test('[CLI-5] what changes something is sent once; when the answer is lost, that is what is said', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('retry', () => 'drop')
  const ended = await home.run(['retry', s.CHANGE, 'web-1'])
  t.equal(ended.status, 3)
  t.match(ended.err, /whether it was done is not known\n {3}do: Look first, with: smith status\n$/)
  t.equal(fake.calls.length, 1)
  fake.on('pause', () => new Promise(() => {}))
  const slow = await home.run(['--timeout', '300ms', 'pause', s.CHANGE])
  t.match(slow, { status: 3, err: /no answer within .* whether it was done is not known/ })
})

t.test('[CLI-5] what only reads is asked for again, after the time that the coordinator names', async (t) => {
  const { home, fake } = await setUp(t)
  const busy = { ...problem(429, 'too-many', 'too many', 'wait'), headers: { 'retry-after': '0' } }
  fake.on('machines', (call) => (call.nth === 0 ? 'drop' : call.nth < 3 ? busy : { machines: [] }))
  t.match(await home.run(['machines']), { status: 0, out: 'No machines.\n' })
  fake.on('machines', () => ({ ...busy, headers: { 'retry-after': '900' } }))
  t.match(await home.run(['machines']), { status: 1, err: /^error: too many\n {3}do: wait\n$/ })
})

t.test('[CLI-6] approve shows plan and digest, asks, and sends just that digest', async (t) => {
  const { home, fake } = await setUp(t)
  const plan = s.planView([s.planEntry('web-1')], { terms: ['goes on after a failure'] })
  fake.on('plan', () => plan)
  fake.on('approve', () => ({ done: true, rev: 9 }))
  const sent = () => fake.calls.filter((call) => call.name === 'approve').map((call) => call.body['digest'])
  const off = await home.run(['approve', s.CHANGE])
  t.match(off, { status: 2, err: /off a terminal an approval needs the digest[^]*smith status CHG0268453 --json/ })
  t.same(sent(), [])
  const other = await home.run(['approve', s.CHANGE, '--digest', s.hash('0')])
  t.match(other, { status: 1, out: /Digest: d{64}/, err: /is d{64}, not the one given; nothing was approved/ })
  const no = await home.terminal(['approve', s.CHANGE], { input: '\n' })
  t.match(no, { status: 1, out: /Approve CHG0268453 with just this plan\? \[y\/N\]/ })
  t.same(sent(), [])
  const yes = await home.terminal(['approve', s.CHANGE.toLowerCase()], { input: 'yes\n' })
  t.match(yes, { status: 0, out: /  goes on after a failure\n[^]*Digest: d{64}[^]*CHG0268453 is approved/ })
  const named = await home.run(['approve', s.CHANGE, '--digest', s.hash('d'), '--reason', 'tuesday'])
  t.equal(named.status, 0)
  t.same(sent(), [s.hash('d'), s.hash('d')])
})

t.test('[SNW-28] a change that is approved elsewhere is answered with the link, and nothing is approved', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('plan', () => s.planView([s.planEntry('web-1')], { decideAt: 'https://site.example/nav_to.do?uri=x' }))
  for (const more of [[], ['--digest', s.hash('d')]]) {
    const told = await home.run(['approve', s.CHANGE, ...more])
    t.match(told, {
      status: 1,
      out: '',
      err: /is approved where it was raised[^]*Open: https:\/\/site\.example\/nav_to\.do/,
    })
  }
  t.same(
    fake.calls.filter((call) => call.name === 'approve'),
    [],
  )
})

t.test('[DOC-5] doctor says what it found with what to do, and its exit status is of the worst', async (t) => {
  const { home, fake } = await setUp(t)
  const good = { subject: 'clock', level: 'good', text: 'is right', remedy: null }
  const bad = { subject: 'reach', level: 'bad', text: 'no answer', remedy: 'look at the url' }
  fake.on('doctor', ({ nth }) => ({ findings: nth === 0 ? [good] : [good, bad] }))
  t.match(await home.run(['doctor']), { status: 0, out: /^ok: clock: is right\n$/ })
  t.match(await home.run(['doctor']), { status: 1, out: /ok: clock[^]*bad: reach: no answer\n   do: look at the url/ })
  t.match(JSON.parse((await home.run(['doctor', '--json'])).out), [good, bad])
})

t.test('[CLI-22] each deciding verb makes its own call, with its reason, and asks nothing', async (t) => {
  const { home, fake } = await setUp(t)
  const done = () => ({ done: true, rev: 9 })
  const names = ['reject', 'pause', 'resume', 'cancel', 'retry', 'skip', 'resolve', 'freeze', 'unfreeze'] as const
  for (const name of names) fake.on(name, done)
  const [c, m, r] = [s.CHANGE, 'web-1', 'because']
  const cases = [
    [['reject', c, '--reason', r], 'reject', { reason: r }],
    [['pause', c], 'pause', {}],
    [['resume', c, '--reason', r], 'resume', { reason: r }],
    [['cancel', c], 'cancel', {}],
    [['cancel', s.id('4')], 'cancel', {}],
    [['retry', c, m], 'retry', { machine: m }],
    [['skip', c, 'WEB-1', '--reason', r], 'skip', { machine: m, reason: r }],
    [['resolve', c, m, '--as', 'failed', '--reason', r], 'resolve', { machine: m, as: 'failed', reason: r }],
    [['freeze', '--reason', r], 'freeze', { reason: r }],
    [['unfreeze'], 'unfreeze', {}],
  ] as const
  for (const [args, name, body] of cases) {
    fake.calls.length = 0
    const ended = await home.run(args)
    t.equal(ended.status, 0, `${name} ${ended.err}`)
    const params = name.endsWith('freeze') ? {} : { change: args[1] }
    t.same(
      fake.calls.map((call) => [call.name, call.params, call.body]),
      [[name, params, body]],
    )
    t.match(ended.out, /^.+\.\n$|smith unfreeze/)
  }
  t.match(await home.run(['skip', c, m, '--reason', '  ']), { status: 2, err: /reason can't be sent/ })
})

t.test('[CLI-11] colour is for terminals, and NO_COLOR, --no-color and a dumb terminal are obeyed', async (t) => {
  const { home, fake } = await setUp(t)
  fake.on('project', () => s.projectView('complete', [s.machineStatus('web-1', 'succeeded')]))
  const args = ['status', s.CHANGE]
  t.match((await home.terminal(args)).out, '\x1b[32m`complete`\x1b[0m')
  const plain = [
    await home.terminal(args, { env: { NO_COLOR: '1' } }),
    await home.terminal(['--no-color', ...args]),
    await home.terminal(args, { env: { TERM: 'dumb' } }),
    await home.run(args, { env: { FORCE_COLOR: '1' } }),
  ]
  for (const ended of plain) t.equal(ended.out, plain[3]?.out)
  t.notMatch(plain[3]?.out, '\x1b')
  t.match((await home.terminal(['status', 'CHG1'])).out, '\x1b[31merror:')
})
