/**
 * What a hostile owner of the agent's folders can do while the runner looks: change what was judged, make entries come
 * and go, plant trees and links. Only what was signed is done, and nothing of it ends the runner.
 */
import { execFileSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { type AgentConfig, checkAgentConfig } from '../../../agent/config.ts'
import { createRealDisk, type Disk } from '../../../agent/disk/disk.ts'
import { makeStateFolders } from '../../../agent/disk/grant-key.ts'
import { layoutOf, orderLayoutOf } from '../../../agent/disk/layout.ts'
import { knownOrders } from '../../../agent/disk/order-state.ts'
import { ORDERS_MAX, REFUSED_MAX, TOLD_MAX, sweepInbox } from '../../../agent/runner/inbox.ts'
import type { RunnerContext } from '../../../agent/runner/ports.ts'
import { type InboxEntry, type SignedGrant, inboxEntrySchema } from '../../../protocol/files.ts'
import { parse } from 'valibot'
import { createMachine, createSigner } from './machine.ts'

const one = { installed: [{ name: 'app', version: '1.0' }], published: [{ name: 'app', version: '2.0' }] }
const id = () => randomBytes(16).toString('hex')
const planned = {
  plan: {
    v: 1 as const,
    build: '725',
    arch: 'amd64',
    installs: [{ name: 'app', arch: 'all', version: '2.0', from: '1.0', sha256: '0'.repeat(64), size: 1 }],
    removes: [],
    repairs: [],
    holds: [],
    rebootDue: false,
    conffiles: 'keep' as const,
  },
  evidence: { releases: [], downloadBytes: 0, installedBytesDelta: 0, madeAt: 0 },
  warnings: [],
}

/** A state folder, grants for it, and one sweep of its inbox over a disk on which something happens meanwhile. */
function createInbox(t: Test) {
  const dir = mkdtempSync(join(tmpdir(), 'smith-inbox-'))
  t.teardown(() => execFileSync('rm', ['-rf', dir]))
  const config = checkAgentConfig(`state_dir = "${dir}"`, 'agent.toml') as AgentConfig
  const disk = createRealDisk()
  const layout = layoutOf(dir)
  makeStateFolders(disk, layout)
  const told: string[] = []
  const sweep = (over: Partial<Disk> = {}) => {
    const ports = { disk: { ...disk, ...over }, now: () => Date.now() }
    const tell: RunnerContext['tell'] = (order, step, text) => void told.push(`${order} ${step} ${text}`)
    sweepInbox({ ports, config, layout, tell } as unknown as RunnerContext)
  }
  return { ...createSigner(disk, layout), dir, disk, layout, told, sweep }
}

t.test('[RUN-70] what is claimed is what was judged, byte for byte, whatever its file says by then', async (t) => {
  const { disk, layout, sweep, grantFor, drop } = createInbox(t)
  const { order, grant } = grantFor(planned)
  drop(order, grant)
  const other: SignedGrant = { ...grant, plan: { ...planned.plan, build: '726', removes: [] } }
  const evil: InboxEntry = { type: 'grant', grant: other }
  const taken = join(layout.taken, `grant-${order}.json`)
  let reads = 0
  sweep({
    // Whoever wrote the file still has it open.
    read: (path, offset, max) => {
      const bytes = disk.read(path, offset, max)
      if (path === taken) {
        reads += 1
        writeFileSync(path, JSON.stringify(evil))
      }
      return bytes
    },
  })
  t.ok(reads > 0, 'it was changed right after it was read')
  const files = orderLayoutOf(layout, order)
  t.match(JSON.parse(readFileSync(files.fate, 'utf8')), { fate: 'claim' })
  const kept = parse(inboxEntrySchema, JSON.parse(readFileSync(files.grant, 'utf8')))
  t.same(kept, { type: 'grant', grant })
})

t.test('[RUN-71] an entry that goes away, or becomes another, while it is moved out stops nothing', async (t) => {
  const { disk, layout, sweep, grantFor, drop, told } = createInbox(t)
  const [gone, folder] = [`grant-${'0'.repeat(32)}.json`, `grant-${'1'.repeat(32)}.json`]
  for (const name of [gone, folder]) writeFileSync(join(layout.inbox, name), '{}')
  const { order, grant } = grantFor(planned)
  drop(order, grant)
  sweep({
    rename: (from, to) => {
      if (from === join(layout.inbox, gone)) rmSync(from)
      if (from === join(layout.inbox, folder)) {
        rmSync(from)
        mkdirSync(join(from, 'deep'), { recursive: true })
      }
      disk.rename(from, to)
    },
  })
  t.same(readdirSync(layout.inbox), [])
  t.ok(existsSync(orderLayoutOf(layout, order).fate), 'the good order is claimed')
  t.ok(told.some((line) => line.includes(folder) && line.includes('refused')))
})

t.test('[RUN-71] an entry whose name is no text is moved out too', async (t) => {
  const { layout, sweep, told } = createInbox(t)
  for (const byte of [0xff, 0xfe])
    writeFileSync(Buffer.concat([Buffer.from(`${layout.inbox}/x`), Buffer.from([byte])]), '{}')
  sweep()
  t.same(readdirSync(layout.inbox, { encoding: 'buffer' }), [])
  t.equal(readdirSync(layout.refused).length, 2)
  t.equal(told.length, 2)
})

t.test('[RUN-71] of what was refused the oldest goes, and what can not go stops nothing', async (t) => {
  const { disk, layout, sweep, grantFor, drop } = createInbox(t)
  mkdirSync(join(layout.inbox, 'stays'))
  sweep()
  const [stays = ''] = readdirSync(layout.refused)
  for (let n = 0; n < REFUSED_MAX; n += 1) writeFileSync(join(layout.inbox, `garbage-${n}`), '')
  const { order, grant } = grantFor(planned)
  drop(order, grant)
  sweep({
    remove: (path) => {
      // As when its owner makes new files in it all the time.
      if (path.endsWith(stays)) throw Object.assign(new Error('not empty'), { code: 'ENOTEMPTY' })
      disk.remove(path)
    },
  })
  t.ok(existsSync(orderLayoutOf(layout, order).fate), 'the good order is claimed')
  t.ok(readdirSync(layout.refused).includes(stays))
  sweep()
  t.equal(readdirSync(layout.refused).length, REFUSED_MAX)
  t.notOk(readdirSync(layout.refused).includes(stays))
})

t.test('[RUN-71] a tree that is deeper than a program may have files open is removed', async (t) => {
  const { dir } = createInbox(t)
  const script = `
    const { createRealDisk } = await import(${JSON.stringify(new URL('../../../agent/disk/disk.ts', import.meta.url).href)})
    process.chdir(${JSON.stringify(dir)})
    for (const name of ['top', ...Array(300).fill('x')]) { (await import('node:fs')).mkdirSync(name); process.chdir(name) }
    process.chdir('/')
    createRealDisk().remove(${JSON.stringify(join(dir, 'top'))})`
  execFileSync('prlimit', ['--nofile=128:128', process.execPath, '--input-type=module', '-e', script])
  t.equal(existsSync(join(dir, 'top')), false)
})

t.test('[RUN-72] an entry full of faults costs one, not one for each', async (t) => {
  const { layout, sweep, told } = createInbox(t)
  const grant = { payload: '', signature: '', keyId: '', plan: { installs: [] as unknown[] } }
  const items = '0,'.repeat(2_000_000)
  const text = JSON.stringify({ type: 'grant', grant }).replace('"installs":[', `"installs":[${items}0`)
  writeFileSync(join(layout.inbox, `grant-${id()}.json`), text)
  const before = process.memoryUsage().heapTotal
  sweep()
  t.match(told.join(), /does not have the form of an entry/)
  // One fault for each of the two million took more than 1 GB.
  t.ok(process.memoryUsage().heapTotal - before < 500e6)
})

t.test('[RUN-72] a flood of garbage and revokes is bounded in the log and on the disk', async (t) => {
  const { disk, layout, sweep, told, grantFor, drop } = createInbox(t)
  for (let n = 0; n < ORDERS_MAX + 500; n += 1) {
    const order = id()
    writeFileSync(join(layout.inbox, `revoke-${order}.json`), JSON.stringify({ type: 'revoke', order }))
    writeFileSync(join(layout.inbox, `garbage-${n}`), '')
  }
  const { order, grant } = grantFor(planned)
  drop(order, grant)
  sweep()
  t.same(readdirSync(layout.inbox), [])
  t.same(readdirSync(layout.taken), [])
  t.equal(readdirSync(layout.refused).length, REFUSED_MAX)
  t.ok(existsSync(orderLayoutOf(layout, order).fate), 'the good order is claimed')
  t.ok(knownOrders(disk, layout).length <= ORDERS_MAX + 1)
  const refused = told.filter((line) => line.includes(' refused '))
  t.equal(refused.length, TOLD_MAX + 1)
  t.match(refused.at(-1), /refused [0-9]+ more/)
})

t.test('[RUN-73] only root can take the locks of a run, so nobody else can hold one up', async (t) => {
  const machine = await createMachine(one)
  t.teardown(machine.close)
  const { order, result } = await machine.run()
  t.match(result, { outcome: 'succeeded' })
  for (const path of [machine.layout.runnerLock, machine.files(order).lock]) t.equal(statSync(path).mode & 0o777, 0o600)
})

t.test('[RUN-74] whatever stands where downloads are looked for, the run downloads itself', async (t) => {
  const machine = await createMachine(one)
  t.teardown(machine.close)
  const plants: Record<string, (at: string, archive: string) => void> = {
    'a link that leads to itself': (at) => symlinkSync(at, at),
    'a link to a folder of others': (at) => symlinkSync('/usr/share', at),
    'a file': (at) => writeFileSync(at, ''),
    'a pipe in the place of an archive': (at, archive) => {
      mkdirSync(join(at, 'cache/archives'), { recursive: true })
      execFileSync('mkfifo', [join(at, 'cache/archives', archive)])
    },
  }
  let version = 1
  for (const [what, plant] of Object.entries(plants)) {
    version += 1
    await machine.publish([{ name: 'app', version: `${version}.0` }])
    const { order, grant } = machine.grantFor(await machine.plan())
    mkdirSync(machine.layout.prefetch, { recursive: true })
    plant(join(machine.layout.prefetch, order), `app_${version}.0_all.deb`)
    machine.drop(order, grant)
    t.equal(await machine.startRunner().ended, 0, what)
    t.match(machine.resultOf(order), { outcome: 'succeeded' }, what)
  }
})
