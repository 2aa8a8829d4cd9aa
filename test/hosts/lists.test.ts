/**
 * What machines get their packages from, on booted hosts: the real lists of Debian beside a site's own `prod`, planned
 * within the memory that the agent may have, and updates that their archive hands out in phases. Skipped by name where
 * no host can be booted or this machine's own mirror is out of reach.
 */
import { createServer } from 'node:http'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import type { AddressInfo } from 'node:net'
import { dirname, join, normalize } from 'node:path'
import type { Test } from 'tap'
import { textOf } from '../../agent/apt/kernel.ts'
import { type Suite, sourcesFor } from './base.ts'
import { run } from './commands.ts'
import { type Given, type Scenario, group, hello, succeeds } from './groups.ts'
import { publishBuild, startPatch, versionOn } from './scenario.ts'

type Source = { readonly uri: string; readonly suite: string }

async function debianSources(): Promise<Source[]> {
  const asked = await run([
    'apt-get',
    'indextargets',
    '--format',
    '$(REPO_URI) $(RELEASE) $(COMPONENT)',
    'Created-By: Packages',
  ])
  return sourcesFor('bookworm', asked.stdout).map((line) => {
    const [, uri = '', suite = ''] = line.split(' ')
    return { uri: uri.replace(/\/?$/, '/'), suite }
  })
}

/** By apt's own program, so that this machine's proxies and mirrors are used as it is configured; null when it fails. */
async function fetched(uri: string, to: string): Promise<Buffer | null> {
  if (!existsSync(to)) {
    mkdirSync(dirname(to), { recursive: true })
    const ran = await run(['/usr/lib/apt/apt-helper', '-o', 'Acquire::Retries=2', 'download-file', uri, `${to}.new`])
    if (ran.status !== 0) return null
    renameSync(`${to}.new`, to)
  }
  return readFileSync(to)
}

/** Serves what this machine's mirror has, below /0/, /1/, ... for the sources in their order. */
async function serveMirror(t: Test, { site }: Given, sources: readonly Source[]): Promise<string> {
  const folder = join(site.dir, 'mirror')
  const server = createServer((request, response) => {
    const [, number = '', path = ''] = /^\/(\d+)\/(.+)$/.exec(normalize(decodeURIComponent(request.url ?? ''))) ?? []
    const uri = sources[Number(number)]?.uri
    const answer = uri === undefined ? Promise.resolve(null) : fetched(uri + path, join(folder, number, path))
    answer.then(
      (bytes) => response.writeHead(bytes === null ? 404 : 200).end(bytes ?? undefined),
      (error: unknown) => response.destroy(error as Error),
    )
  })
  t.teardown(() => {
    server.closeAllConnections()
    server.close()
  })
  await new Promise<void>((resolve) => server.listen(0, site.network.address, resolve))
  return `http://${site.network.address}:${(server.address() as AddressInfo).port}`
}

const UNIT_GROUP = '/sys/fs/cgroup/system.slice/smith-agent.service'

/**
 * The agent with what it starts in a control group that has the bound of its unit: its systemd does that, unless this
 * machine keeps the memory controller to version 1. Gives what is known of it afterwards.
 */
async function boundAgent({ site, host }: Given): Promise<() => Promise<{ peak: number; killed: number }>> {
  const max = Number(await host.must(['systemctl', 'show', '--value', '--property=MemoryMax', 'smith-agent']))
  if (await host.has(`${UNIT_GROUP}/memory.peak`))
    return async () => ({
      peak: Number(await host.read(`${UNIT_GROUP}/memory.peak`)),
      killed: Number(/^oom_kill (\d+)$/m.exec(await host.read(`${UNIT_GROUP}/memory.events`))?.[1]),
    })
  const all = join('/sys/fs/cgroup/memory', `${site.network.name}-1`)
  const own = join(all, 'agent')
  mkdirSync(own)
  writeFileSync(join(own, 'memory.limit_in_bytes'), String(max))
  const pids = readFileSync(join(all, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean)
  for (const pid of pids)
    if ((textOf(`/proc/${pid}/cmdline`) ?? '').includes('agent/main.mjs')) writeFileSync(join(own, 'cgroup.procs'), pid)
  return async () => ({
    peak: Number(readFileSync(join(own, 'memory.max_usage_in_bytes'), 'utf8')),
    killed: Number(/^oom_kill (\d+)$/m.exec(readFileSync(join(own, 'memory.oom_control'), 'utf8'))?.[1]),
  })
}

const phased = (suite: Suite): Scenario => [
  `[HST-59] an update that its archive hands out to no machine yet is installed from prod on ${suite}`,
  async (t, given) => {
    const { site, host, build, version } = given
    await publishBuild(site, build, [hello(version, { fields: { 'Phased-Update-Percentage': '0' } })])
    await host.write('/etc/apt/apt.conf.d/60phased', 'APT::Get::Never-Include-Phased-Updates "true";\n')
    await succeeds(t, given, await startPatch(site, build, [host.name]))
  },
]

const REAL: Scenario = [
  '[HST-57] a small package of Debian is planned and installed with the real lists',
  async (t, given) => {
    const { site, host, build, version } = given
    const sources = await debianSources()
    const [first] = sources
    const release = `dists/${first?.suite}/InRelease`
    const isReached = first && (await fetched(first.uri + release, join(site.dir, 'mirror/0', release))) !== null
    if (isReached !== true) {
      t.pass('the real lists', { skip: 'the mirror of this machine’s own apt is out of reach' })
      return
    }
    const url = await serveMirror(t, given, sources)
    const stanzas = sources.map(
      ({ suite }, index) =>
        `\nTypes: deb\nURIs: ${url}/${index}/\nSuites: ${suite}\nComponents: main\nSigned-By: /usr/share/keyrings/debian-archive-keyring.gpg\n`,
    )
    const template = await host.read('/etc/smith/repos/build.sources.in')
    await host.write('/etc/smith/repos/build.sources.in', [template, ...stanzas].join(''))
    await publishBuild(site, build, [hello(version, { name: 'greeter', depends: 'ed' })])
    const memory = await boundAgent(given)
    const change = await startPatch(site, build, [host.name])
    await succeeds(t, given, change, 'greeter')
    t.match(await versionOn(host, 'ed'), /^ii /)
    t.match(await host.must(['apt-mark', 'showauto']), /^ed$/m, 'and marked as what it is')
    const { peak, killed } = await memory()
    t.comment(`at most ${Math.round(peak / 1_000_000)} MB`)
    t.equal(killed, 0, 'within the memory of its unit')
    t.ok(peak > 0)
  },
]

group({
  what: '[HST-57] the lists of Debian 12',
  name: 'prod-dal10-lists12-worker-1',
  installed: [hello('1.0'), hello('1.0', { name: 'greeter' })],
  scenarios: [phased('bookworm'), REAL],
})
group({
  what: '[HST-59] the lists of Debian 13',
  name: 'prod-dal10-lists13-worker-1',
  suite: 'trixie',
  installed: [hello('1.0')],
  scenarios: [phased('trixie')],
})
