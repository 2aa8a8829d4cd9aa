/**
 * Every program killed at every step of a run, by the name of the step: afterwards the run has its true result, apt
 * ran once, no line is lost or doubled, and the next machine was not granted before.
 */
import { randomInt } from 'node:crypto'
import { chmodSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { Step } from '../../protocol/files.ts'
import type { Site, SiteMachine } from '../demo/site.ts'
import {
  approve,
  call,
  feedRows,
  isOver,
  machinesOf,
  machinesWith,
  ordersOf,
  outputOf,
  outputOn,
  publish,
  raise,
  recordsOf,
  startSite,
  until,
  untilStatus,
} from '../site/harness.ts'
import { VICTIMS, type Victim, kill } from './victims.ts'

/** How a run is held in a step: by the archive, by a check, by a package's script, or only seen to pass. */
type Hold = { readonly reached: () => Promise<unknown>; readonly open: () => Promise<unknown> | void }
/** Only ends what would hang: the whole takes minutes on a slow machine. */
t.setTimeout(1_800_000)
const STEPS: readonly Step[] = [
  'claim',
  'update',
  'replan',
  'fetch',
  'pre-checks',
  'latch',
  'install',
  'post-checks',
  'verify',
]

t.test('[KIL-1] every program killed, and at every step of a run one', { timeout: 1_800_000 }, async (t) => {
  // Without prefetch the run itself downloads, so that the archive can hold it in that step.
  const site = await startSite(t, { limits: 'prefetch_ahead = 0\nsilence_max = 60' })
  const [first, next] = ['prod-dal10-web-1', 'prod-dal10-web-2']
  await publish(site, [{ name: 'hello', version: '1.1' }])
  const machines = await machinesWith(site, [first, next], [await site.build({ name: 'hello', version: '1.0' })])
  const [machine] = machines
  if (machine === undefined) throw new Error('no machine')
  let version = 1
  for (const { step, victim } of chosen()) {
    version += 1
    await t.test(`[KIL-1] ${victim} killed in ${step}`, { timeout: 300_000 }, (t) =>
      scenario(t, site, machine, next, { step, victim, version: `1.${version}` }),
    )
  }
})

/** Every step each time, every program too, and every pair in some of the times; SMITH_KILL_ALL=1 is all of them. */
function chosen(): { step: Step; victim: Victim }[] {
  const first = randomInt(VICTIMS.length)
  return STEPS.flatMap((step, index) => {
    // Before the install there is no wrapper, and after it there is none any more.
    const victims = VICTIMS.filter((victim) => victim !== 'wrapper' || step === 'install')
    const isAll = process.env['SMITH_KILL_ALL'] === '1' || step === 'install'
    return isAll
      ? victims.map((victim) => ({ step, victim }))
      : victims.filter((_, at) => at === (first + index) % victims.length).map((victim) => ({ step, victim }))
  })
}

async function scenario(
  t: Test,
  site: Site,
  machine: SiteMachine,
  next: string,
  given: { step: Step; victim: Victim; version: string },
): Promise<void> {
  const { step, victim, version } = given
  const gateFile = `run/gate-${version}`
  await publish(site, [
    { name: 'hello', version, behaviours: step === 'install' ? [{ type: 'gate', file: gateFile }] : [] },
  ])
  // Only the first machine is held: the gate of the next one stands open.
  if (step === 'install') await site.machine(next).root.gate(gateFile).open()
  const change = await raise(site, `prod machines: ${machine.name} ${next} outage:0`)
  await call(site, 'POST', '/freeze', { reason: 'until the hold is set' })
  await approve(site, change)
  await untilStatus(site, change, 'the plans to be compared', (status) => status.stop?.code === 'frozen')
  const hold = holdIn(site, machine, step, gateFile)
  await call(site, 'POST', '/unfreeze', {})
  await hold.reached()
  await kill(site, machine, victim)
  await hold.open()
  const done = await untilStatus(site, change, 'its end', (status) => isOver(status) || status.stop?.kind === 'hold')
  t.equal(done.state, 'complete', `${JSON.stringify(done.stop)} ${JSON.stringify(machinesOf(done))}`)
  t.equal((await machine.root.status('hello'))?.version, version)

  const orders = await ordersOf(site, change)
  t.equal(orders.length, 2, 'each machine had one order')
  for (const order of orders) {
    const on = site.machine(order.machine)
    const records = await recordsOf(site, order.order)
    t.ok(outputOf(records).equals(outputOn(on, order.order)), `no line of ${order.machine} is lost or doubled`)
    t.strictSame(
      records.map((record) => record.n),
      records.map((_, index) => index + 1),
    )
    t.equal(aptRuns(on, order.order), 1, `apt installed once on ${order.machine}`)
  }
  const facts = (await feedRows(site, 0)).flatMap((row) => row.facts).filter((fact) => fact.change === change)
  const endOfFirst = facts.findIndex((fact) => fact.fact === 'orderSucceeded' && fact.machine === machine.name)
  const grantOfNext = facts.findIndex((fact) => fact.fact === 'orderGranted' && fact.machine === next)
  t.ok(endOfFirst >= 0 && grantOfNext > endOfFirst, 'the next was granted after the end of the first')
}

/** apt's own account: the entries of its history that bear the order. */
function aptRuns(machine: SiteMachine, order: string): number {
  const history = readFileSync(join(machine.root.root, 'var/log/apt/history.log'), 'utf8')
  return history.split('\n').filter((line) => line.startsWith('Commandline:') && line.includes(order)).length
}

function holdIn(site: Site, machine: SiteMachine, step: Step, gateFile: string): Hold {
  switch (step) {
    case 'update':
      return heldByArchive(site, /InRelease$/)
    case 'fetch':
      return heldByArchive(site, /\.deb$/)
    case 'pre-checks':
      return heldByCheck(machine, 'pre')
    case 'post-checks':
      return heldByCheck(machine, 'post')
    case 'install':
      return { reached: () => machine.root.gate(gateFile).reached(), open: () => machine.root.gate(gateFile).open() }
    default:
      return seenToPass(machine, step)
  }
}

function heldByArchive(site: Site, path: RegExp): Hold {
  const lift = site.server.misbehave({ kind: 'stall', path, afterBytes: 0 })
  return { reached: () => lift.reached, open: () => lift() }
}

/** A check that says that it has come and then waits to be let go. */
function heldByCheck(machine: SiteMachine, when: 'pre' | 'post'): Hold {
  const folder = join(machine.dir, 'checks.d', when)
  const script = join(folder, 'hold')
  const reached = join(machine.dir, `${when}.reached`)
  const open = join(machine.dir, `${when}.open`)
  mkdirSync(folder, { recursive: true })
  for (const file of [reached, open]) rmSync(file, { force: true })
  writeFileSync(script, `#!/bin/sh\n: > ${reached}\nwhile [ ! -e ${open} ]; do sleep 0.05; done\n`)
  chmodSync(script, 0o755)
  return {
    reached: () => until(`the ${when}-check`, () => existsSync(reached)),
    open: () => {
      writeFileSync(open, '')
      rmSync(script)
    },
  }
}

/** Steps that nothing outside can hold: the kill comes as soon as the record of the step is on disk. */
function seenToPass(machine: SiteMachine, step: Step): Hold {
  const orders = join(machine.stateDir, 'run', 'orders')
  const known = new Set(existsSync(orders) ? readdirSync(orders) : [])
  return {
    reached: () =>
      until(`step ${step}`, () => {
        const fresh = existsSync(orders) ? readdirSync(orders).filter((order) => !known.has(order)) : []
        return fresh.some((order) => {
          const records = join(orders, order, 'records')
          return existsSync(records) && readFileSync(records, 'utf8').includes(`"type":"step","step":"${step}"`)
        })
      }),
    open: () => {},
  }
}
