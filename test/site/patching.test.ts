/**
 * What smith is for, on real programs: coordinator, agents, runners and wrappers as processes of their own, real apt and
 * dpkg on private package roots, real sockets and SQLite.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { PackageSpec } from '../archive/builder.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import {
  approve,
  ask,
  call,
  feedRows,
  isOver,
  machinesOf,
  machinesWith,
  online,
  ordersOf,
  outputOf,
  outputOn,
  publish,
  raise,
  recordsOf,
  startSite,
  statusOf,
  until,
  untilStatus,
} from './harness.ts'

const OLD: PackageSpec = { name: 'hello', version: '1.0' }
const NEW: PackageSpec = { name: 'hello', version: '1.1' }

t.test('[SIT-1] six machines by a pattern: natural order, one at a time, every byte of output kept', async (t) => {
  const site = await startSite(t)
  const names = [1, 2, 3, 10, 11, 20].map((n) => `prod-dal10-carrier3-worker-${n}`)
  // What real packages do to whoever reads along.
  const loud: readonly PackageSpec[] = [
    { name: 'chatty', version: '2', behaviours: [{ type: 'chatty', lines: 20_000 }] },
    { name: 'bytes', version: '2', behaviours: [{ type: 'raw-bytes' }] },
    { name: 'endless', version: '2', behaviours: [{ type: 'long-line', bytes: 200_000 }] },
    { name: 'daemon', version: '2', behaviours: [{ type: 'daemon', file: 'run/daemon.pid' }] },
    { name: 'asking', version: '2', behaviours: [{ type: 'prompt' }] },
  ]
  await publish(site, [NEW, ...loud])
  const hello = await site.build(OLD)
  for (const [index, name] of names.entries()) {
    const spec = loud[index]
    const installed = spec === undefined ? [hello] : [hello, await site.build({ name: spec.name, version: '1' })]
    await site.addMachine(name, installed)
  }
  await online(site, ...names)
  const change = await raise(site, 'prod machines: prod-dal10-carrier3-worker-* outage:0')
  await approve(site, change)
  const status = await untilStatus(site, change, 'its end', isOver)
  t.equal(status.state, 'complete', JSON.stringify(machinesOf(status)))
  t.strictSame(
    machinesOf(status).map((machine) => machine.name),
    names.toSorted(compareNaturally),
  )

  const rows = await feedRows(site, 0)
  t.strictSame(
    rows.map((row) => row.rev),
    rows.map((_, index) => index + 1),
    'the journal has no gap',
  )
  let inTheWorks: string | null = null
  const granted: string[] = []
  for (const fact of rows.flatMap((row) => row.facts)) {
    if (fact.fact === 'orderGranted') {
      t.equal(inTheWorks, null, `${fact.machine} is granted while nothing else is in the works`)
      inTheWorks = fact.machine ?? ''
      granted.push(inTheWorks)
    }
    if (fact.fact === 'orderSucceeded' || fact.fact === 'orderFailed') inTheWorks = null
  }
  t.strictSame(granted, names, 'granted strictly in natural order')

  for (const order of await ordersOf(site, change)) {
    const records = await recordsOf(site, order.order)
    const machine = site.machine(order.machine)
    t.ok(
      outputOf(records).equals(outputOn(machine, order.order)),
      `the output of ${order.machine} is the same byte for byte`,
    )
    t.strictSame(
      records.map((record) => record.n),
      records.map((_, index) => index + 1),
      'numbered without a gap',
    )
    t.equal(records.at(-1)?.type, 'result')
    t.equal((await machine.root.status('hello'))?.version, '1.1')
  }
  const text = await site.smith('status', change)
  t.match(text.stdout, /TOTALS: Pass: 6, Failed NONE, Unstarted NONE/)
})

t.test('[SIT-2] a failed script: hold, diagnosis, retry under the same change, repaired', async (t) => {
  const site = await startSite(t)
  const [a, b, c] = ['prod-dal10-web-1', 'prod-dal10-web-2', 'prod-dal10-web-3'] as const
  await publish(site, [
    {
      ...NEW,
      behaviours: [{ type: 'fail-once', marker: 'run/tried', message: 'the disk of the database is not there' }],
    },
  ])
  const old = await site.build(OLD)
  await machinesWith(site, [a, b, c], [old])
  // Only the second machine fails: the others have tried already.
  for (const name of [a, c]) writeFileSync(join(site.machine(name).root.root, 'run/tried'), '')
  const change = await raise(site, `prod machines: ${a} ${b} ${c} outage:0`)
  await approve(site, change)
  const held = await untilStatus(site, change, 'the hold', (status) => status.stop?.kind === 'hold')
  t.equal(held.stop?.code, 'failed')
  t.equal(held.stop?.lift, `smith retry ${change} ${b}`)
  const failed = machinesOf(held).find((machine) => machine.name === b)
  t.equal(failed?.cause, 'maintainer-script')
  t.match(failed?.evidence.join('\n'), /the disk of the database is not there/)
  t.equal(
    machinesOf(held).find((machine) => machine.name === c)?.state === 'succeeded',
    false,
    'the next was not granted',
  )
  const refused = await call<{ refusals: { remedy: string }[] }>(site, 'POST', `/projects/${change}/resume`, {})
  t.equal(refused.status, 409)
  t.match(refused.body.refusals[0]?.remedy, /smith retry/)
  const retried = await call(site, 'POST', `/projects/${change}/retry`, { machine: b })
  t.equal(retried.status, 200)
  const done = await untilStatus(site, change, 'its end', isOver)
  t.equal(done.state, 'complete', JSON.stringify(machinesOf(done)))
  t.equal(machinesOf(done).find((machine) => machine.name === b)?.attempt, 2)
  t.equal(await site.machine(b).root.audit(), '')
})

t.test('[SIT-3] nothing runs without an approval, whatever is restarted', async (t) => {
  const site = await startSite(t)
  const name = 'prod-dal10-web-1'
  await publish(site, [NEW])
  const [machine] = await machinesWith(site, [name], [await site.build(OLD)])
  const change = await raise(site, `prod machines: ${name} outage:0`)
  await site.coordinator?.stop('SIGKILL')
  await machine?.agent?.stop('SIGKILL')
  await site.startCoordinator()
  await machine?.startAgent()
  await online(site, name)
  t.equal((await statusOf(site, change)).state, 'pending')
  t.strictSame(await ordersOf(site, change), [])
  t.equal((await machine?.root.status('hello'))?.version, '1.0')
  await approve(site, change)
  const done = await untilStatus(site, change, 'its end', isOver)
  t.equal(done.state, 'complete', JSON.stringify(machinesOf(done)))
})

t.test('[SIT-4] a new version after the approval is drift, the same archive signed again is none', async (t) => {
  const site = await startSite(t, { change: 'requester_may_approve = true\nlocal_admin_may_approve = true' })
  const names = ['prod-dal10-web-1', 'prod-dal10-web-2']
  await publish(site, [NEW])
  await machinesWith(site, names, [await site.build(OLD)])
  const first = await raise(site, `prod machines: ${names[0]} outage:0`)
  await site.archive.resign('prod', { date: new Date() })
  await approve(site, first)
  const same = await untilStatus(site, first, 'its end', isOver)
  t.equal(same.state, 'complete', 'signed again is no drift')

  const second = await raise(site, `prod machines: ${names[1]} outage:0`)
  await site.archive.publish({
    suite: 'prod',
    packages: [await site.build({ name: 'hello', version: '1.2' })],
    date: new Date(),
  })
  await approve(site, second)
  const held = await untilStatus(site, second, 'the drift', (status) => status.stop?.kind === 'hold')
  t.equal(held.stop?.code, 'drift')
  t.match(held.stop?.reason, /hello.*1\.2/)
  t.equal((await site.machine(names[1] ?? '').root.status('hello'))?.version, '1.0', 'nothing was installed')
  t.strictSame(await ordersOf(site, second), [], 'nothing was granted')
})

t.test(
  '[SIT-5] an approval withdrawn in mid-project: the running machine finishes, the next is not granted',
  async (t) => {
    const site = await startSite(t)
    const names = ['prod-dal10-web-1', 'prod-dal10-web-2']
    await publish(site, [{ ...NEW, behaviours: [{ type: 'gate', file: 'run/gate' }] }])
    const machines = await machinesWith(site, names, [await site.build(OLD)])
    const change = await raise(site, `prod machines: ${names.join(' ')} outage:0`)
    await approve(site, change)
    await machines[0]?.root.gate('run/gate').reached()
    const rejected = await call(site, 'POST', `/projects/${change}/reject`, { reason: 'not tonight' })
    t.equal(rejected.status, 200)
    await machines[0]?.root.gate('run/gate').open()
    const held = await untilStatus(
      site,
      change,
      'the hold',
      (status) => status.stop?.code === 'approval' && status.totals.pass === 1,
    )
    t.match(held.stop?.reason, /withdrawn/)
    t.equal(held.stop?.lift, `smith approve ${change}`)
    t.equal(held.totals.unstarted, 1)
    t.equal((await machines[1]?.root.status('hello'))?.version, '1.0')
    await approve(site, change)
    await machines[1]?.root.gate('run/gate').reached()
    await machines[1]?.root.gate('run/gate').open()
    t.equal((await untilStatus(site, change, 'its end', isOver)).state, 'complete')
  },
)

t.test('[SIT-6] a reinstalled machine, enrolled with --replace, is patched under its old name', async (t) => {
  const site = await startSite(t)
  const name = 'prod-dal10-web-1'
  await publish(site, [NEW])
  const old = await site.build(OLD)
  const [machine] = await machinesWith(site, [name], [old])
  await machine?.agent?.stop('SIGKILL')
  const taken = await site.smith('enrol', 'new', '--name', name)
  t.equal(taken.status, 1)
  t.match(taken.stderr, /--replace/)
  await site.addMachine(name, [old], { replace: true })
  await online(site, name)
  const change = await raise(site, `prod machines: ${name} outage:0`)
  await approve(site, change)
  t.equal((await untilStatus(site, change, 'its end', isOver)).state, 'complete')
  t.equal((await site.machine(name).root.status('hello'))?.version, '1.1')
})

t.test(
  '[SIT-7] automatic packages are still automatic, and machines with nothing to do pass without a run',
  async (t) => {
    const site = await startSite(t)
    await publish(site, [
      { ...NEW, depends: 'libhello (>= 2)' },
      { name: 'libhello', version: '2' },
      { name: 'other', version: '1' },
    ])
    const lib = await site.build({ name: 'libhello', version: '1' })
    const name = 'prod-dal10-web-1'
    const idle = 'prod-dal10-web-2'
    await machinesWith(site, [name], [await site.build(OLD), lib], { auto: ['libhello'] })
    await machinesWith(site, [idle], [await site.build({ name: 'other', version: '1' })])
    const change = await raise(site, `prod machines: ${name} ${idle} outage:0`)
    await approve(site, change)
    const done = await untilStatus(site, change, 'its end', isOver)
    t.equal(done.state, 'complete', JSON.stringify(machinesOf(done)))
    t.strictSame(await site.machine(name).root.autoPackages(), ['libhello'])
    t.strictSame(
      (await ordersOf(site, change)).map((order) => order.machine),
      [name],
      'no order for the machine with nothing to do',
    )
  },
)

t.test('[SIT-8] every refusal of a request at once, and nothing is recorded but the refusal', async (t) => {
  const site = await startSite(t)
  await publish(site, [NEW])
  await machinesWith(site, ['prod-dal10-web-1', 'prod-wdc04-web-1'], [await site.build(OLD)])
  const view = (await ask(
    site,
    '999 machines: prod-dal10-web-1 prod-wdc04-web-1 prod-dal10-wbe-1 nothing-* outage:0',
  )) as unknown as { refusals: { kind: string; remedy: string }[] }
  const kinds = view.refusals.map((refusal) => refusal.kind)
  for (const kind of ['unknown-machine', 'no-match', 'several-regions'])
    t.ok(kinds.includes(kind), `${kind} in ${kinds.join(', ')}`)
  t.ok(
    view.refusals.every((refusal) => refusal.remedy !== ''),
    'each says what to do',
  )
  const { body } = await call<{ projects: unknown[] }>(site, 'GET', '/projects')
  t.strictSame(body.projects, [])
})

t.test(
  '[SIT-9] an agent gone for good in mid-run: unknown, held, nothing else starts; its result settles it',
  async (t) => {
    const site = await startSite(t, { limits: 'silence_max = 1\nwait_max = 1' })
    const names = ['prod-dal10-web-1', 'prod-dal10-web-2']
    await publish(site, [{ ...NEW, behaviours: [{ type: 'gate', file: 'run/gate' }] }])
    const machines = await machinesWith(site, names, [await site.build(OLD)])
    const change = await raise(site, `prod machines: ${names.join(' ')} outage:0`)
    await approve(site, change)
    await machines[0]?.root.gate('run/gate').reached()
    await machines[0]?.agent?.stop('SIGKILL')
    const unknown = await untilStatus(site, change, 'the unknown', (status) => status.totals.unknown === 1)
    t.equal(unknown.stop?.code, 'unknown')
    t.match(unknown.stop?.lift, new RegExp(`smith resolve ${change} ${names[0]}`))
    // A restart and a person who only presses on change nothing.
    await site.coordinator?.stop('SIGKILL')
    await site.startCoordinator()
    t.equal((await call(site, 'POST', `/projects/${change}/resume`, {})).status, 409)
    t.equal((await statusOf(site, change)).totals.unstarted, 1)
    await machines[0]?.root.gate('run/gate').open()
    // The run ended long ago when the agent is back; nothing was granted in between.
    await until(
      'the run to end on its machine',
      async () =>
        (await machines[0]?.root.status('hello'))?.state === 'install ok installed' &&
        (await machines[0]?.root.status('hello'))?.version === '1.1',
    )
    t.equal((await statusOf(site, change)).totals.unknown, 1)
    await machines[0]?.startAgent()
    await untilStatus(site, change, 'the settling', (status) => status.totals.pass === 1)
    await machines[1]?.root.gate('run/gate').reached()
    await machines[1]?.root.gate('run/gate').open()
    t.equal((await untilStatus(site, change, 'its end', isOver)).state, 'complete')
  },
)
