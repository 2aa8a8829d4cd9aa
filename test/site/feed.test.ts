/** The feed over real restarts, as the CLI follows it in the middle of a run. */
import t from 'tap'
import { startProgram } from '../demo/process.ts'
import { approve, feedRows, isOver, machinesWith, publish, raise, startSite, until, untilStatus } from './harness.ts'

t.test('[SIT-10] smith feed misses and repeats nothing over a restart of the coordinator in mid-run', async (t) => {
  const site = await startSite(t)
  const name = 'prod-dal10-web-1'
  await publish(site, [{ name: 'hello', version: '1.1', behaviours: [{ type: 'gate', file: 'run/gate' }] }])
  const [machine] = await machinesWith(site, [name], [await site.build({ name: 'hello', version: '1.0' })])
  const seen: number[] = []
  const feed = startProgram('coordinator/cli/smith.ts', ['--socket', site.socket, 'feed', '--since', '0', '--json'], {
    log: `${site.dir}/feed.out`,
  })
  t.teardown(() => feed.stop('SIGKILL'))
  feed.child.stdout?.on('data', () => {})
  const rows: { rev: number }[] = []
  const reading = feed.line((line) => {
    if (line.startsWith('{')) rows.push(JSON.parse(line) as { rev: number })
    return false
  })
  reading.catch(() => seen.push(-1))
  const change = await raise(site, `prod machines: ${name} outage:0`)
  await approve(site, change)
  await machine?.root.gate('run/gate').reached()
  await site.coordinator?.stop('SIGKILL')
  await site.startCoordinator()
  await machine?.root.gate('run/gate').open()
  await untilStatus(site, change, 'its end', isOver)
  const all = await feedRows(site, 0)
  const last = all.at(-1)?.rev ?? 0
  await until('the follower to have the last row', () => (rows.at(-1)?.rev ?? 0) >= last)
  t.strictSame(
    rows.map((row) => row.rev).filter((rev) => rev <= last),
    all.map((row) => row.rev),
  )
  // A client that comes late gets exactly what it missed.
  const middle = Math.floor(last / 2)
  t.strictSame(
    (await feedRows(site, middle)).map((row) => row.rev).slice(0, last - middle),
    all.slice(middle).map((row) => row.rev),
  )
})
