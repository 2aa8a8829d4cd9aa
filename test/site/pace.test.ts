/** How a project goes, on real programs and a real database: phases, a soak over a restart, failures that it goes on after. */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import {
  approve,
  ask,
  isOver,
  machinesOf,
  machinesWith,
  ordersOf,
  publish,
  raise,
  startSite,
  untilStatus,
} from './harness.ts'

t.test('[SIT-11] phases, a soak that outlasts a crash, and a failure that stops no other cluster', async (t) => {
  const site = await startSite(t)
  const [a, b, c] = ['prod-dal10-web-1', 'prod-dal11-web-1', 'prod-dal12-web-1'] as const
  await publish(site, [
    { name: 'hello', version: '1.1', behaviours: [{ type: 'fail-once', marker: 'run/tried', message: 'not today' }] },
  ])
  await machinesWith(site, [a, b, c], [await site.build({ name: 'hello', version: '1.0' })])
  for (const name of [a, c]) writeFileSync(join(site.machine(name).root.root, 'run/tried'), '')
  t.match(await ask(site, `prod machines: ${a} outage:0 window:2020-01-01T00:00/04:00`), {
    refusals: [{ kind: 'bad-value', message: /has ended already/ }],
  })
  const line = `prod machines: ${a} ${b} ${c} outage:0 phases:1,100% soak:60 on-failure:continue`
  const shown = await site.smith('plan', line)
  t.match(
    shown.stdout,
    /phases: 1, 100% of the machines, with 60 minutes of soak between them\n {2}goes on after a failure/,
  )
  t.match(shown.stdout, new RegExp(`2\\. ${b} \\(phase 1, `))
  const change = await raise(site, line)
  await approve(site, change)
  const soaking = await untilStatus(site, change, 'the soak', (status) => status.stop?.code === 'soak')
  t.match(soaking.stop, { kind: 'waiting', lift: `smith resume ${change}`, machine: b })
  await site.coordinator?.stop('SIGKILL')
  await site.startCoordinator()
  const after = await untilStatus(site, change, 'the soak after the crash', (status) => status.stop?.code === 'soak')
  t.equal(after.stop?.until, soaking.stop?.until)
  t.equal((await ordersOf(site, change)).length, 1)
  t.equal((await site.smith('resume', change, '--reason', 'seen enough')).status, 0)
  const held = await untilStatus(site, change, 'the hold', (status) => status.stop?.code === 'failed')
  t.strictSame(
    machinesOf(held).map((machine) => `${machine.name} ${machine.state}`),
    [`${a} succeeded`, `${b} failed`, `${c} succeeded`],
    'the machine after the failed one had its turn',
  )
  t.equal((await site.smith('retry', change, b)).status, 0)
  t.equal((await untilStatus(site, change, 'its end', isOver)).state, 'complete')
})
