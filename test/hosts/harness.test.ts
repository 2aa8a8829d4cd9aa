/**
 * The hosts themselves, before smith comes into it: that they are real, apart from each other, survive what they
 * must, and leave nothing behind. Skipped by name where no host can be booted.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { cgroupRoots, ensureBase, sourcesFor, whyNoHosts } from './base.ts'
import { BARE_ENVIRONMENT, run, until } from './commands.ts'
import { type Host, startHost } from './host.ts'
import { createNetwork, startOf, sweep } from './network.ts'

const reason = whyNoHosts()
const skip = reason ?? false
t.setTimeout(600_000)

/** Hosts on a network of their own; all of it ends with the test. */
async function boot(
  test: Test,
  count: number,
): Promise<{ readonly hosts: readonly Host[]; readonly name: string; readonly address: string }> {
  const base = await ensureBase('bookworm')
  const network = await createNetwork()
  const dir = mkdtempSync(join(tmpdir(), 'smith-hosts-'))
  const hosts: Host[] = []
  test.teardown(async () => {
    await Promise.all(hosts.map((host) => host.stop()))
    await network.close()
    rmSync(dir, { recursive: true, force: true })
  })
  const starting = Array.from({ length: count }, (_, index) =>
    startHost({ base, name: `web-${index + 1}`, dir: join(dir, String(index + 1)), network, number: index + 1 }),
  )
  hosts.push(...(await Promise.all(starting)))
  return { hosts, name: network.name, address: network.address }
}

/** What bears the name on this machine: links, mounts, control groups, processes. */
async function tracesOf(name: string): Promise<string[]> {
  const links = [...(await run(['ip', '-o', 'link'])).stdout.matchAll(/^\d+: (\S+?)[@:]/gm)].map(
    (match) => match[1] ?? '',
  )
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .filter((line) => line.startsWith(`${name}-`))
  const groups = cgroupRoots().flatMap((root) => readdirSync(root).filter((group) => group.startsWith(`${name}-`)))
  const processes = (await run(['ps', '-eo', 'args='])).stdout
    .split('\n')
    .filter((line) => line.includes(`--machine=${name}-`))
  return [
    ...links.filter((link) => link === name || link.startsWith(`vb-${name}-`)),
    ...mounts,
    ...groups,
    ...processes,
  ]
}

t.test(
  '[HST-1] three hosts boot at once, each with its own systemd, address and package state',
  { skip },
  async (t) => {
    const { hosts, address } = await boot(t, 3)
    const identities = await Promise.all(hosts.map((host) => host.read('/etc/machine-id')))
    t.equal(new Set(identities).size, 3, 'each has its own identity')
    for (const host of hosts) {
      t.equal((await host.must(['hostname'])).trim(), host.name)
      t.equal((await host.must(['ps', '-o', 'comm=', '-p', '1'])).trim(), 'systemd')
      t.match(await host.must(['ip', '-o', '-4', 'address', 'show', 'host0']), host.address)
      t.match(await host.must(['ip', 'route']), `default via ${address}`)
      t.match(await host.must(['systemctl', 'is-system-running']), /^(running|degraded)$/m)
    }
    const [first, second] = hosts as [Host, Host, Host]
    await first.must(['dpkg', '--remove', '--force-all', 'procps'])
    t.equal((await first.run(['dpkg', '-s', 'procps'])).stdout.includes('Status: install ok installed'), false)
    t.match((await second.run(['dpkg', '-s', 'procps'])).stdout, /Status: install ok installed/)
  },
)

t.test(
  '[HST-2] what a host has on disk survives a reboot and the plug, what it has in memory does not',
  { skip },
  async (t) => {
    const { hosts } = await boot(t, 1)
    const [host] = hosts as [Host]
    for (const path of ['/var/kept', '/run/lost']) await host.write(path, 'x')
    const bootId = await host.read('/proc/sys/kernel/random/boot_id')
    await host.reboot()
    t.equal(host.boots(), 2, 'the reboot that it asked for itself came about')
    const bootIds = [bootId, await host.read('/proc/sys/kernel/random/boot_id')]
    t.strictSame([await host.has('/var/kept'), await host.has('/run/lost')], [true, false])
    await host.write('/run/lost', 'x')
    await host.must(['systemd-run', '--unit=asleep', '--property=ExecStop=/bin/touch /var/stopped', 'sleep', '600'])
    const init = host.init()
    await host.pullPlug()
    t.equal(host.isUp(), false)
    t.equal(startOf(init), null, 'its init is gone')
    t.equal(await host.has('/var/stopped'), false, 'no service was asked to stop')
    t.equal(await host.read('/var/kept'), 'x', 'its files can be read while it is off')
    await host.boot()
    t.strictSame([await host.has('/var/kept'), await host.has('/run/lost')], [true, false])
    bootIds.push(await host.read('/proc/sys/kernel/random/boot_id'))
    t.equal(new Set(bootIds).size, 3, 'each boot has an id of its own, though the kernel is this machine’s')
  },
)

t.test('[HST-3] a network that was cut stays cut over a reboot, until it is joined', { skip }, async (t) => {
  const { hosts, address } = await boot(t, 2)
  const [first, second] = hosts as [Host, Host]
  // A port that nothing listens on refuses at once when the way is open, and times out when it is not.
  const reach = async (from: Host, to: string) =>
    (await from.run(['timeout', '2', 'bash', '-c', `exec 3<>/dev/tcp/${to}/9`])).stderr.includes('refused')
  t.equal(await reach(first, second.address), true)
  t.equal(await reach(first, address), true)
  await first.cutNetwork()
  t.equal(await reach(first, second.address), false)
  await first.reboot()
  t.equal(await reach(first, address), false)
  t.equal(await reach(second, address), true, 'the others are not disturbed')
  await first.joinNetwork()
  await until('the network', () => reach(first, address))
})

t.test('[HST-4] commands, files and the journal of a host are within reach', { skip }, async (t) => {
  const { hosts } = await boot(t, 1)
  const [host] = hosts as [Host]
  t.same(await host.run(['sh', '-c', 'cat; echo err >&2; exit 3'], { input: 'in' }), {
    status: 3,
    stdout: 'in',
    stderr: 'err\n',
  })
  t.equal((await host.run(['sleep', '60'], { timeoutMs: 200 })).status, -1)
  await t.rejects(host.must(['false']), /false ended with 1/)
  await host.write('/opt/deep/tool', '#!/bin/sh\necho "$0"\n', 0o755)
  t.equal(await host.must(['/opt/deep/tool']), '/opt/deep/tool\n')
  t.equal(readFileSync(host.outside('/opt/deep/tool'), 'utf8'), '#!/bin/sh\necho "$0"\n')
  await host.must(['systemd-run', '--wait', '--unit=speaker', 'echo', 'good evening'])
  t.match(await host.journal('speaker'), /good evening/)
  await host.reboot()
  t.match(await host.journal('speaker'), /good evening/, 'the journal outlives the boot')
})

t.test(
  '[HST-5] a host that was stopped leaves nothing, and neither does an owner that was killed',
  { skip },
  async (t) => {
    const { hosts, name } = await boot(t, 1)
    await hosts[0]?.stop()
    t.strictSame(await tracesOf(name), [name], 'only the bridge is left, until the network is closed')

    const { owner, network } = await otherOwner(t)
    t.ok((await tracesOf(network)).length > 3, 'the other owner has a host')
    t.strictSame(await sweep(), [], 'what is owned is left alone')
    const ended = new Promise((resolve) => owner.once('close', resolve))
    owner.kill('SIGKILL')
    await ended
    const before = await tracesOf(network)
    t.ok(before.length > 0, 'it left something')
    t.strictSame(await sweep(), [network])
    t.strictSame(await tracesOf(network), [])
    t.equal(existsSync(`/run/smith-hosts/${network}.json`), false)
  },
)

/** Another process that boots a host and keeps it. */
async function otherOwner(test: Test): Promise<{ readonly owner: ChildProcess; readonly network: string }> {
  const dir = mkdtempSync(join(tmpdir(), 'smith-hosts-'))
  test.teardown(() => rmSync(dir, { recursive: true, force: true }))
  const here = (file: string) => JSON.stringify(fileURLToPath(new URL(file, import.meta.url)))
  const program = `
    const { ensureBase } = await import(${here('./base.ts')})
    const { createNetwork } = await import(${here('./network.ts')})
    const { startHost } = await import(${here('./host.ts')})
    const network = await createNetwork()
    await startHost({ base: await ensureBase('bookworm'), name: 'orphan', dir: ${JSON.stringify(dir)}, network, number: 1 })
    console.log(network.name)
    setInterval(() => {}, 1000)`
  const owner = spawn(process.execPath, ['--input-type=module', '--eval', program], {
    env: { ...BARE_ENVIRONMENT },
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  test.teardown(() => owner.kill('SIGKILL'))
  const network = await new Promise<string>((resolve, reject) => {
    createInterface({ input: owner.stdout }).once('line', resolve)
    owner.once('close', () => reject(new Error('the other owner ended')))
  })
  return { owner, network }
}

t.test('[HST-6] the tree comes from the mirror of this machine’s own apt, whatever release that is', async (t) => {
  const targets = [
    'http://mirror.example/debian/ bookworm main',
    'http://mirror.example/debian/ bookworm contrib',
    'http://mirror.example/debian/ bookworm-updates main',
    'http://mirror.example/debian-security/ bookworm-security main',
    'https://other.example/ nodistro main',
  ].join('\n')
  t.strictSame(sourcesFor('trixie', targets), [
    'deb http://mirror.example/debian-security/ trixie-security main',
    'deb http://mirror.example/debian/ trixie main',
    'deb http://mirror.example/debian/ trixie-updates main',
  ])
  t.strictSame(sourcesFor('bookworm', 'http://archive.example/ubuntu noble main'), [], 'an Ubuntu machine has none')
})

t.test('[HST-6] two that need a tree at once get the same one', { skip }, async (t) => {
  const [one, other] = await Promise.all([ensureBase('bookworm'), ensureBase('bookworm')])
  t.equal(one, other)
  t.ok(existsSync(join(one, 'usr/lib/systemd/systemd')) || existsSync(join(one, 'lib/systemd/systemd')))
})

t.test('[HST-7] where no host can be booted the reason is named, and so is what to do', async (t) => {
  const program = fileURLToPath(new URL('./hosts.ts', import.meta.url))
  const wrong = await run([process.execPath, program, 'up', 'many'])
  t.equal(wrong.status, 2)
  t.match(wrong.stderr, /whole number from 1 to/)
  const none = await run([process.execPath, program, 'shell', 'nowhere'])
  t.equal(none.status, 1)
  t.match(none.stderr, /^error: .*\n   do: npm run hosts/)
  if (process.getuid?.() !== 0) return
  const unprivileged = await run([
    'setpriv',
    '--reuid=65534',
    '--regid=65534',
    '--clear-groups',
    process.execPath,
    program,
    'up',
    '1',
  ])
  t.equal(unprivileged.status, 1)
  t.match(unprivileged.stderr, /^error: hosts need root\n   do: /)
})
