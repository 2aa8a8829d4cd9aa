/**
 * What root and the kernel do to a run in the middle of its install, each on a booted host: the acts of systemd don't
 * reach dpkg, and a script that is killed for want of memory is named as that. Skipped by name where no host can be
 * booted.
 */
import { existsSync, mkdirSync, readFileSync, readdirSync, readlinkSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { call, ordersOf, untilStatus } from '../site/harness.ts'
import { cgroupRoots } from './base.ts'
import { until } from './commands.ts'
import type { Host } from './host.ts'
import { endGroup } from './network.ts'
import {
  checkLog,
  checkRun,
  describeStatus,
  machineIn,
  publishBuild,
  startHostSite,
  startMidInstall,
  startPatch,
  startedOn,
  untilSettled,
  versionOn,
} from './scenario.ts'
import { whyNoHosts } from './base.ts'

const skip = whyNoHosts() ?? false
t.setTimeout(1_800_000)

t.test('[HST-68] no act of systemd in the middle of an install reaches dpkg', { skip }, async (t) => {
  const site = await startHostSite(t)
  const name = 'prod-dal10-acts1-worker-1'
  const { host, change, gate, script } = await startMidInstall(site, name, '700')
  const started = await startedOn(host, script)
  const left = async (act: string) =>
    t.equal(await startedOn(host, script), started, `${act} leaves the script at work`)
  for (const verb of ['stop', 'restart', 'try-restart', 'reload-or-restart']) {
    t.not((await host.run(['systemctl', verb, 'smith-run.service'])).status, 0, `${verb} is refused`)
    await left(verb)
  }
  await host.must(['systemctl', 'daemon-reload'])
  await host.must(['systemctl', 'daemon-reexec'])
  await left('the re-execution of systemd')
  await host.must(['systemctl', 'kill', '--kill-who=main', 'smith-run.service'])
  await left('a signal to the main process')
  await host.must(['systemctl', 'isolate', '--no-block', 'rescue.target'])
  const isActive = async () => (await host.run(['systemctl', 'is-active', 'smith-agent'])).stdout.trim() === 'active'
  await until('the agent to be stopped', async () => !(await isActive()))
  await left('isolation')
  await host.must(['systemctl', 'isolate', '--no-block', 'multi-user.target'])
  await until('the agent to be started', isActive)
  await left('the way back')
  await gate.open()
  const done = await untilSettled(site, change)
  // Isolation stopped other services too, and may leave one stopped: that, and nothing else, may be found worse.
  t.match(machineIn(done, name).cause ?? 'check', /^check$/, describeStatus(done))
  t.equal(await versionOn(host, 'hello'), 'ii 1.1')
  await checkRun(t, site, change, name)
})

t.test(
  '[HST-68] root that signals every process of the unit does interrupt dpkg: told as that, and a retry repairs',
  { skip },
  async (t) => {
    const site = await startHostSite(t)
    const name = 'prod-dal10-acts3-worker-1'
    const { host, change, gate } = await startMidInstall(site, name, '702')
    await host.must(['systemctl', 'kill', 'smith-run.service'])
    const held = await untilSettled(site, change)
    t.equal(machineIn(held, name).cause, 'dpkg-interrupted', describeStatus(held))
    await gate.open()
    t.equal((await call(site, 'POST', `/projects/${change}/retry`, { machine: name })).status, 200)
    const done = await untilStatus(site, change, 'its end', (status) => status.state === 'complete')
    t.equal(machineIn(done, name).attempt, 2, describeStatus(done))
    t.equal(await versionOn(host, 'hello'), 'ii 1.1')
    t.equal((await host.must(['dpkg', '--audit'])).trim(), '')
  },
)

/** The hierarchy in which memory is bounded, and the file that takes the bound; null where there is none. */
function memoryGroup(id: string): { readonly folder: string; readonly limit: string } | null {
  for (const root of cgroupRoots())
    for (const limit of ['memory.limit_in_bytes', 'memory.max']) {
      const folder = join(root, id)
      mkdirSync(folder, { recursive: true })
      if (existsSync(join(folder, limit))) return { folder, limit: join(folder, limit) }
      rmdirSync(folder)
    }
  return null
}

/** The number, on the machine that carries the hosts, of a process of one of them. */
function outsidePid(host: Host, pid: number): number {
  const space = readlinkSync(`/proc/${host.init()}/ns/pid`)
  const found = readdirSync('/proc').find((name) => {
    try {
      if (!/^[0-9]+$/.test(name) || readlinkSync(`/proc/${name}/ns/pid`) !== space) return false
      return new RegExp(`^NSpid:.*\\t${pid}$`, 'm').test(readFileSync(`/proc/${name}/status`, 'utf8'))
    } catch (error) {
      // It ended while we looked, or is none of the host's.
      if (!['ENOENT', 'ESRCH', 'EACCES'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
      return false
    }
  })
  if (found === undefined) throw new Error(`${host.name} has no process ${pid}`)
  return Number(found)
}

/** It goes on to fill its memory, once: a retry finds it content. */
const HUNGRY = `if [ ! -e /var/tmp/full ]; then
  touch /var/tmp/full; echo $$ > /var/tmp/hungry.new; mv /var/tmp/hungry.new /var/tmp/hungry
  while [ ! -e /var/tmp/eat ]; do sleep 0.1; done
  exec perl -e 'my @all; push @all, "x" x 1_000_000 while 1'
fi`

const MEMORY =
  '[HST-69] a script that the kernel kills for want of memory fails its run as that, and a retry finishes it'
t.test(MEMORY, { skip }, async (t) => {
  const site = await startHostSite(t)
  const name = 'prod-dal10-acts2-worker-1'
  const group = memoryGroup(`${site.network.name}-memory`)
  if (group === null) return void t.pass('not tried: no control group bounds memory here')
  t.teardown(() => endGroup(group.folder))
  const installed = [await site.build({ name: 'hello', version: '1.0' })]
  await publishBuild(site, '701', [{ name: 'hello', version: '1.1', postinst: HUNGRY }])
  const host = await site.addHost(name, { installed })
  const change = await startPatch(site, '701', [name])
  const pid = await until(
    'the hungry script',
    async () => Number((await host.run(['cat', '/var/tmp/hungry'])).stdout) || null,
  )
  writeFileSync(group.limit, String(64 * 1024 * 1024))
  writeFileSync(join(group.folder, 'cgroup.procs'), String(outsidePid(host, pid)))
  await host.must(['touch', '/var/tmp/eat'])
  const held = await untilSettled(site, change)
  const machine = machineIn(held, name)
  t.equal(machine.cause, 'maintainer-script', describeStatus(held))
  t.match(machine.message, /post-installation script of hello failed: was killed by signal/)
  t.match(machine.advice.join(), /memory/)
  t.match(await versionOn(host, 'hello'), /^iF +1.1/, 'dpkg knows what is left to do')
  for (const order of await ordersOf(site, change)) await checkLog(t, site, order)
  t.equal((await call(site, 'POST', `/projects/${change}/retry`, { machine: name })).status, 200)
  const done = await untilStatus(site, change, 'its end', (status) => status.state === 'complete')
  t.equal(machineIn(done, name).attempt, 2, describeStatus(done))
  t.equal(await versionOn(host, 'hello'), 'ii 1.1')
  t.equal((await host.must(['dpkg', '--audit'])).trim(), '')
})
