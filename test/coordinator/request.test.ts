/** The request line: what it means, which machines it chooses, and every refusal with its place and its remedy. */
import fc from 'fast-check'
import t from 'tap'
import * as v from 'valibot'
import { type Refusal, refusalSchema } from '../../protocol/errors.ts'
import { machineWord, normalAddress, parseRequest } from '../../coordinator/domain/request.ts'
import { findMachines } from '../../coordinator/domain/selection.ts'
import { createTools } from '../../coordinator/pattern.ts'
import { EMPTY_PLAN, SETTINGS, createWorld, must, refusalsIn } from './harness.ts'

const W = 'prod-dal10-carrier3-worker'
const FLEET = [
  `${W}-1`,
  `${W}-2`,
  `${W}-10`,
  'prod-dal10-carrier3-master-1',
  'prod-dal10-carrier4-worker-1',
  'prod-syd05-carrier1-worker-1005',
  'db.lon.example.org',
]

/** The word of the line that a refusal points at; `$` is the end of the line. */
function pointed(text: string, refusal: Refusal): string | null {
  if (refusal.position === undefined) return null
  return refusal.position.start >= text.length ? '$' : text.slice(refusal.position.start, refusal.position.end)
}

const wordKind = (text: string) => {
  const word = machineWord({ text, start: 0, end: text.length })
  return word === null
    ? null
    : `${word.kind} ${word.kind === 'name' ? word.name : word.kind === 'address' ? word.address : word.source}`
}

t.test('[REQ-1] a word is a name, an address or a pattern by what stands in it', async (t) => {
  const table: readonly (readonly [string, string | null])[] = [
    ['prod-dal10-carrier3-worker-11', 'name prod-dal10-carrier3-worker-11'],
    ['Prod-DAL10-Worker-11', 'name prod-dal10-worker-11'],
    ['db.lon.example.org', 'name db.lon.example.org'],
    ['10.77.0.12', 'address 10.77.0.12'],
    ['10.77.0.256', 'name 10.77.0.256'],
    ['010.77.0.12', 'name 010.77.0.12'],
    ['2001:DB8::12', 'address 2001:db8::12'],
    ['2001:0db8:0:0:0:0:0:12', 'address 2001:db8::12'],
    ['::ffff:10.77.0.12', 'address 10.77.0.12'],
    ['::FFFF:0a4d:000c', 'address 10.77.0.12'],
    ['::1', 'address ::1'],
    ['worker-*', String.raw`pattern worker-.*`],
    ['db.*', 'pattern db.*'],
    ['db.lon*', String.raw`pattern db\.lon.*`],
    ['worker-?', 'pattern worker-.'],
    ['worker-.?', 'pattern worker-.?'],
    ['worker-[12]', 'pattern worker-[12]'],
    ['worker-1|worker-2', 'pattern worker-1|worker-2'],
    ['worker-1{2}', 'pattern worker-1{2}'],
    ['^worker-1$', 'pattern ^worker-1$'],
    [String.raw`worker-\d`, String.raw`pattern worker-\d`],
    ['/worker.1/', 'pattern worker.1'],
    ['//', null],
    ['a,b', null],
    ['a_b', null],
    ['a_b*', null],
    ['-a', null],
    ['<b>', null],
  ]
  for (const [word, wanted] of table) t.equal(wordKind(word), wanted, word)
})

t.test('[REQ-1] addresses that are the same are compared as the same', async (t) => {
  t.equal(normalAddress('2001:db8:0:0:1:0:0:1'), '2001:db8::1:0:0:1', 'the first longest run of zeros is cut')
  t.equal(normalAddress('fe80:0:0:0:0:0:0:0'), 'fe80::')
  t.equal(normalAddress('1:2:3:4:5:6:7:8'), '1:2:3:4:5:6:7:8')
  t.equal(normalAddress('::ffff:7f00:1'), '127.0.0.1')
  t.equal(normalAddress('64:ff9b::192.0.2.33'), '64:ff9b::c000:221')
})

t.test('[REQ-2] a line that is understood is understood in any order and case of its keys', async (t) => {
  for (const text of [
    'prod machines: a b outage:0',
    'smith-patch prod outage:0 machines: a b',
    'prod MACHINES:a b Outage: 0',
    '  prod\tmachines:\n a  b outage:00 ',
  ]) {
    const outcome = parseRequest(text)
    t.ok(outcome.ok, text)
    if (!outcome.ok) continue
    t.equal(outcome.parsed.build, 'prod')
    t.strictSame(
      outcome.parsed.machines.map((word) => word.word.text),
      ['a', 'b'],
    )
    t.equal(outcome.parsed.outageMinutes, 0)
    t.strictSame([outcome.parsed.offline, outcome.parsed.busy], ['refuse', 'refuse'])
  }
  const full = parseRequest('725 machines: a* except: a1 a2 offline:skip busy:skip outage:1440')
  t.match(full, { ok: true, parsed: { build: '725', outageMinutes: 1440, offline: 'skip', busy: 'skip' } })
  t.ok(full.ok && full.parsed.except.length === 2)
})

t.test('[REQ-3] each thing that is not understood is refused with a caret under it and what to write', async (t) => {
  const table: readonly (readonly [string, Refusal['kind'], string])[] = [
    ['', 'syntax', '$'],
    ['machines: a outage:0', 'syntax', '$'],
    ['prod outage:0', 'syntax', '$'],
    ['prod machines: outage:0', 'syntax', '$'],
    ['prod machines: a', 'syntax', '$'],
    ['prod machines: a outage:', 'syntax', '$'],
    ['stage machines: a outage:0', 'bad-value', 'stage'],
    ['72.5 machines: a outage:0', 'bad-value', '72.5'],
    ['prod a machines: b outage:0', 'syntax', 'a'],
    ['prod machines: a outage:0 now', 'syntax', 'now'],
    ['prod machines: a outage:0 5', 'syntax', '5'],
    ['prod machines: a outage:ten', 'bad-value', 'ten'],
    ['prod machines: a outage:-1', 'bad-value', '-1'],
    ['prod machines: a outage:1441', 'bad-value', '1441'],
    ['prod machines: a outage:1.5', 'bad-value', '1.5'],
    ['prod machines: a,b outage:0', 'bad-value', 'a,b'],
    ['prod machines: a outage:0 outage:5', 'duplicate-key', 'outage:5'],
    ['prod machines: a machines: b outage:0', 'duplicate-key', 'machines:'],
    ['prod machines: a outage:0 ofline:skip', 'unknown-key', 'ofline:'],
    ['prod machines: a outage:0 zzzzzzzzz:1', 'unknown-key', 'zzzzzzzzz:'],
    ['prod machines: a outage:0 offline:wait', 'bad-value', 'wait'],
    ['prod machines: a outage:0 busy:', 'syntax', '$'],
    ['prod machines: a outage:0 except:', 'syntax', '$'],
  ]
  for (const [text, kind, where] of table) {
    const outcome = parseRequest(text)
    if (outcome.ok) {
      t.fail(`${text} was understood`)
      continue
    }
    t.ok(
      outcome.refusals.some((one) => one.kind === kind && pointed(text, one) === where),
      `${text}: ${JSON.stringify(outcome.refusals)}`,
    )
    t.ok(
      outcome.refusals.every((one) => one.remedy !== '' && one.position !== undefined),
      `${text}: every reason has its place and a remedy`,
    )
  }
  const near = parseRequest('prod machines: a outage:0 ofline:skip')
  t.ok(!near.ok && near.refusals[0]?.remedy === 'did you mean offline: ?')
})

t.test('[REQ-4] every reason is named at once, those of the line and those of the machines', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const text = `725 machines: ${W}-1 ${W}-3 nosuch-* prod-syd05-carrier1-worker-1005 outage:soon outage:0 whe:now`
  const refusals = await world.refusalsOf(text)
  const kinds = refusals.map((one) => one.kind)
  for (const kind of [
    'bad-value',
    'duplicate-key',
    'unknown-key',
    'unknown-machine',
    'no-match',
    'unknown-build',
    'several-regions',
  ] as const) {
    t.ok(kinds.includes(kind), kind)
  }
  t.equal(kinds.filter((kind) => kind === 'unknown-build').length, 2, 'each machine that does not know the build')
  t.strictSame(world.store().projects({ limit: 9 }), [], 'nothing is recorded')
  t.match(world.facts(), [{ fact: 'requestRefused', text }], 'but the refusal')
  t.equal(world.driver().view.size('requests'), 0)
})

t.test('[REQ-5] a machine that is not known is refused with the nearest names', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const text = `prod machines: ${W}-11 outage:0`
  const [refusal] = await world.refusalsOf(text)
  t.match(refusal, { kind: 'unknown-machine', subject: `${W}-11`, remedy: `did you mean ${W}-1 or ${W}-10 or ${W}-2?` })
  t.equal(pointed(text, must(refusal)), `${W}-11`)
  const [far] = await world.refusalsOf('prod machines: x outage:0')
  t.match(far, { kind: 'unknown-machine', remedy: 'smith machines lists those enrolled' })
})

t.test('[REQ-6] matches stand in natural order, a list as written, and a machine counts once', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const orderOf = async (words: string) => {
    const change = await world.ask(`prod machines: ${words} outage:0`)
    const names = world.targets(change).map((target) => target.name)
    await world.steer('cancel', change)
    return names
  }
  t.strictSame(await orderOf(`${W}-*`), [`${W}-1`, `${W}-2`, `${W}-10`])
  t.strictSame(await orderOf(`${W}-10 ${W}-1 ${W}-10 ${W}-1`), [`${W}-10`, `${W}-1`])
  t.strictSame(await orderOf(`${W}-2 ${W}-[0-9]+`), [`${W}-2`, `${W}-1`, `${W}-10`])
  t.strictSame(await orderOf(`/${W}-(1|2)/`), [`${W}-1`, `${W}-2`])
  t.strictSame(await orderOf(`${W}-? except: ${W}-2`), [`${W}-1`])
  t.strictSame(await orderOf(`${W}-* except: ${W}-1? prod-dal10-carrier4-*`), [`${W}-1`, `${W}-2`])
  t.match(await world.refusalsOf(`prod machines: ${W}-1 except: ${W}-* outage:0`), [
    { kind: 'no-match', message: /except: takes out every machine/ },
  ])
})

t.test('[REQ-6] a pattern is anchored, and . and - of a name are plain', async (t) => {
  const world = await createWorld({ machines: ['db.lon.example.org', 'dbxlon.example.org', 'web-lon-1', 'web-lon-11'] })
  const change = await world.ask('prod machines: db.lon.example.* outage:0').catch((error: Error) => error.message)
  t.match(change, /^CHG/)
  t.equal(world.targets(change).length, 2, 'a . before a * makes a regular expression, in which . is any character')
  t.strictSame(
    (await world.request('prod machines: db.lon.exampl?.org outage:0', { preview: true })).refusals.map(
      (one) => one.kind,
    ),
    ['machine-busy'],
    'a glob matches its dots only',
  )
  const other = await world.ask('prod machines: /web-lon-1/ outage:0')
  t.strictSame(
    world.targets(other).map((target) => target.name),
    ['web-lon-1'],
  )
})

t.test('[REQ-7] an address is that of the connection, never what a machine says', async (t) => {
  const world = await createWorld({
    machines: FLEET,
    labels: {
      [`${W}-1`]: { address: '10.77.0.12' },
      [`${W}-2`]: { address: '::ffff:10.77.0.13' },
      [`${W}-10`]: { address: '2001:db8::10' },
      'db.lon.example.org': { address: '10.77.0.99' },
      'prod-dal10-carrier4-worker-1': { address: '10.77.0.99' },
    },
  })
  const change = await world.ask('prod machines: 10.77.0.12 10.77.0.13 2001:0DB8:0::10 outage:0')
  t.strictSame(
    world.targets(change).map((target) => target.name),
    [`${W}-1`, `${W}-2`, `${W}-10`],
  )
  const text = 'prod machines: 10.77.0.14 10.77.0.99 outage:0'
  const refusals = await world.refusalsOf(text)
  t.match(refusals, [
    { kind: 'unknown-machine', message: 'no agent is connected from 10.77.0.14' },
    {
      kind: 'bad-value',
      message: '10.77.0.99 is the address of 2 agents: db.lon.example.org, prod-dal10-carrier4-worker-1',
    },
  ])
  t.strictSame(
    refusals.map((one) => pointed(text, one)),
    ['10.77.0.14', '10.77.0.99'],
  )
})

t.test('[REQ-8] machines of several regions are refused, listed by region', async (t) => {
  const world = await createWorld({
    machines: [...FLEET, 'prod-fra02-web-1'],
    labels: { [`${W}-2`]: { region: 'moon' } },
  })
  t.match(await world.refusalsOf('prod machines: prod-* outage:0'), [
    {
      kind: 'several-regions',
      message: `the machines lie in 4 regions: ap-south: prod-syd05-carrier1-worker-1005; moon: ${W}-2; no-region: prod-fra02-web-1; us-south: prod-dal10-carrier3-master-1, ${W}-1, ${W}-10, prod-dal10-carrier4-worker-1`,
    },
  ])
})

t.test('[REQ-9] a machine that can not be patched refuses the request, with its cause', async (t) => {
  const world = await createWorld({ machines: FLEET, offline: [`${W}-2`] })
  const change = await world.ask(`prod machines: ${W}-10 outage:0`)
  const sick = world.agent(`${W}-1`)
  sick.impediment = {
    kind: 'cannot-plan',
    message: '/etc/apt/preferences is not readable',
    remedy: 'chmod a+r /etc/apt/preferences',
  }
  await sick.connect()
  world.agent('prod-dal10-carrier3-master-1').plan = {
    kind: 'cannot-plan',
    message: 'the archive does not answer',
    remedy: 'look at it',
  }
  t.match(await world.refusalsOf(`prod machines: ${W}-* outage:0`), [
    {
      kind: 'cannot-plan',
      subject: `${W}-1`,
      message: `${W}-1 can't plan: /etc/apt/preferences is not readable`,
      remedy: 'chmod a+r /etc/apt/preferences',
    },
    { kind: 'machine-offline', subject: `${W}-2` },
    {
      kind: 'machine-busy',
      subject: `${W}-10`,
      message: `${W}-10 is in the open project ${change}`,
      remedy: new RegExp(`smith status ${change}`),
    },
  ])
  t.match(await world.refusalsOf('prod machines: prod-dal10-carrier3-master-1 outage:0'), [
    { kind: 'cannot-plan', message: 'prod-dal10-carrier3-master-1: the archive does not answer' },
  ])
  t.match(await world.refusalsOf('999 machines: prod-dal10-carrier4-worker-1 outage:0'), [
    { kind: 'unknown-build', remedy: /it knows: prod; add \/etc\/smith\/repos\/999\.sources/ },
  ])
})

t.test('[REQ-9] the remedy for a machine whose change is not raised yet names no change', async (t) => {
  const world = await createWorld({ machines: FLEET })
  world.provider.isUp = false
  await world.request(`prod machines: ${W}-1 outage:0`)
  const [refusal] = await world.refusalsOf(`prod machines: ${W}-1 outage:0`)
  t.match(refusal, { kind: 'machine-busy', message: `${W}-1 is in a project whose change is being raised` })
  t.notMatch(refusal?.remedy, /smith status a change/)
})

t.test('[REQ-19] lists of machines take one name, address or pattern', async (t) => {
  const world = await createWorld({ machines: FLEET })
  const tools = createTools(SETTINGS, { bytes: (count) => new Uint8Array(count) })
  const found = (text: string) => findMachines(world.driver().view, text, tools)
  t.strictSame(
    found(`${W}-?`).machines.map((one) => one.name),
    [`${W}-1`, `${W}-2`],
  )
  t.match(found('a,b'), { machines: [], refusals: [{ kind: 'bad-value' }] })
  t.match(found('['), {
    machines: [],
    refusals: [{ kind: 'bad-value', message: /no regular expression/, position: { start: 0, end: 1 } }],
  })
})

t.test(
  '[REQ-20] a person without the role may not ask, and a machine with nothing to do is no reason to refuse',
  async (t) => {
    const world = await createWorld({ machines: FLEET })
    t.match((await world.request(`prod machines: ${W}-1 outage:0`, { by: 'vi' })).refusals, [
      { kind: 'not-allowed', remedy: /requester or admin/ },
    ])
    world.agent(`${W}-1`).plan = EMPTY_PLAN
    t.match(await world.ask(`prod machines: ${W}-1 outage:0`), /^CHG/)
    t.strictSame(refusalsIn({ ok: true }), [])
  },
)

const anyWord = fc.oneof(
  fc.constantFrom(
    'prod',
    '725',
    'machines:',
    'outage:0',
    'outage:',
    'offline:skip',
    'busy:skip',
    'except:',
    'outage:x',
    'machines:a',
    'smith-patch',
    '::1',
    '10.0.0.1',
    '/a|b/',
    'a*',
    '[',
    ':',
    '__proto__:',
    'constructor:x',
  ),
  fc.string({ maxLength: 12 }),
  fc.string({ unit: 'binary', maxLength: 8 }),
)

t.test('[REQ-21] any text is either understood or refused with a place and a remedy, and never throws', async (t) => {
  const tools = createTools(SETTINGS, { bytes: (count) => new Uint8Array(count) })
  const check = (text: string) => {
    const outcome = parseRequest(text)
    if (outcome.ok) {
      for (const word of outcome.parsed.machines)
        if (word.kind === 'pattern') tools.compilePattern(`^(?:${word.source})$`)
      return outcome.parsed.machines.length > 0
    }
    return (
      outcome.refusals.length > 0 &&
      outcome.refusals.every(
        (one) =>
          v.is(refusalSchema, one) &&
          one.remedy !== '' &&
          one.position !== undefined &&
          one.position.start < one.position.end,
      )
    )
  }
  fc.assert(fc.property(fc.string({ unit: 'binary', maxLength: 200 }), check), { numRuns: 2000 })
  fc.assert(
    fc.property(fc.array(anyWord, { maxLength: 12 }), (words) => check(words.join(' '))),
    { numRuns: 4000 },
  )
  t.pass('no text was neither')
})
