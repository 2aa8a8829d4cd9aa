/**
 * A machine for the tests of the runner: a private root on a real archive, an enrolled state folder, and the
 * coordinator's part (planning and signing grants) done by hand. The runner is the real program, started as the
 * agent starts it.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { createHash, generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { mkdtemp } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createRealMachine, planOnce } from '../../../agent/apt/planning.ts'
import { isRefusal, type Planned } from '../../../agent/apt/plan.ts'
import { createRealProcesses } from '../../../agent/apt/processes.ts'
import { type AgentConfig, readAgentConfig } from '../../../agent/config.ts'
import { createRealDisk, type Disk, readIfExists, writeFileDurably } from '../../../agent/disk/disk.ts'
import { makeStateFolders, writeGrantKeys } from '../../../agent/disk/grant-key.ts'
import {
  grantEntryName,
  type Layout,
  layoutOf,
  type OrderLayout,
  orderLayoutOf,
  revokeEntryName,
} from '../../../agent/disk/layout.ts'
import { runnerCommand } from '../../../agent/disk/runner-command.ts'
import {
  GRANT_SIGNATURE_PREFIX,
  type GrantPayload,
  type InboxEntry,
  type Result,
  type RunRecord,
  type SignedGrant,
} from '../../../protocol/files.ts'
import { planText } from '../../../protocol/plan.ts'
import { createArchive } from '../../archive/archive.ts'
import { buildPackage, type BuiltPackage, type PackageSpec } from '../../archive/builder.ts'
import { createRoot } from '../../archive/root.ts'
import { serveArchive } from '../../archive/server.ts'

export type Scenario = {
  readonly installed: readonly PackageSpec[]
  readonly published: readonly PackageSpec[]
  readonly auto?: readonly string[]
  readonly limits?: Readonly<Record<string, number>>
  readonly coordinator?: string
  /** More tables of agent.toml. */
  readonly tables?: string
}

const WAIT_MS_MAX = 120_000
/** Waits for a condition, which is looked at often; fails after a bound that no honest machine needs. */
export async function until(what: string, condition: () => boolean): Promise<void> {
  for (const start = Date.now(); !condition();) {
    if (Date.now() - start > WAIT_MS_MAX) throw new Error(`waited ${WAIT_MS_MAX / 1000} s in vain for ${what}`)
    await delay(10)
  }
}

/** Archive, server and private root. */
async function createWorld(dir: string, scenario: Scenario) {
  const build = async (specs: readonly PackageSpec[]) => {
    const built: BuiltPackage[] = []
    for (const spec of specs) built.push(await buildPackage(spec, join(dir, 'built')))
    return built
  }
  const archive = await createArchive({ dir: join(dir, 'archive') })
  let date = Date.now() - 3_600_000
  /** Each publication is newer than the one before. */
  const publish = async (specs: readonly PackageSpec[]) => {
    date += 1000
    const packages = await build(specs)
    for (const suite of ['prod', '725']) {
      await archive.publish({ suite, packages, build: '725', date: new Date(date) })
    }
  }
  await publish(scenario.published)
  const server = await serveArchive({ dir: archive.dir })
  const root = await createRoot({
    dir: join(dir, 'root'),
    archiveUrl: server.url,
    keyFile: archive.keyFile,
    installed: await build(scenario.installed),
    auto: scenario.auto ?? [],
  })
  return { dir, build, archive, publish, server, root }
}
type World = Awaited<ReturnType<typeof createWorld>>

function configure(world: World, { limits, coordinator, tables }: Scenario): AgentConfig {
  const { dir, root } = world
  const lines = Object.entries({ poll: 0.02, lock_wait: 20, free_bytes: 1024, settle: 0, health: 1, ...limits })
  const file = join(dir, 'agent.toml')
  const text = [
    `coordinator = "${coordinator ?? 'https://127.0.0.1:7600'}"`,
    `state_dir = "${join(dir, 'state')}"`,
    `log_file = "${join(dir, 'smith-agent.log')}"`,
    `repos_dir = "${root.sourcesDir}"`,
    `checks_dir = "${join(dir, 'checks.d')}"`,
    `[apt]\nroot = "${root.root}"`,
    '[run]\nmode = "detached"',
    `[limits]\n${lines.map(([key, value]) => `${key} = ${value}`).join('\n')}`,
    tables ?? '',
  ]
  writeFileSync(file, `${text.join('\n')}\n`)
  return readAgentConfig(file)
}

/** The coordinator's key, and grants signed with it. */
export function createSigner(disk: Disk, layout: Layout) {
  const keys = generateKeyPairSync('ed25519')
  const der = keys.publicKey.export({ type: 'spki', format: 'der' })
  const keyId = createHash('sha256').update(der).digest('hex')
  const machine = randomBytes(16).toString('hex')
  writeGrantKeys(disk, layout, { machine, keys: [{ keyId, key: der.toString('base64') }] })
  let fence = 0
  const grantFor = (planned: Planned, changes: Partial<GrantPayload> = {}) => {
    fence += 1
    // Read once: a grant that lives a millisecond too long is refused.
    const issuedAt = Date.now()
    const payload: GrantPayload = {
      type: 'smith-grant-v1',
      order: randomBytes(16).toString('hex'),
      machine,
      change: 'CHG0000001',
      fence,
      build: planned.plan.build,
      planHash: createHash('sha256').update(planText(planned.plan)).digest('hex'),
      attempt: 1,
      outageMinutes: 0,
      issuedAt,
      startBy: issuedAt + 600_000,
      ...changes,
    }
    const bytes = Buffer.from(JSON.stringify(payload))
    const signature = sign(null, Buffer.concat([Buffer.from(GRANT_SIGNATURE_PREFIX), bytes]), keys.privateKey)
    const { plan, evidence } = planned
    const signed = { payload: bytes.toString('base64'), signature: signature.toString('base64'), keyId }
    const grant: SignedGrant = { ...signed, plan, evidence }
    return { order: payload.order, payload, grant }
  }
  const entry = (name: string, value: InboxEntry) =>
    writeFileDurably(disk, join(layout.inbox, name), JSON.stringify(value), { mode: 0o640 })
  return {
    grantFor,
    drop: (order: string, grant: SignedGrant) => entry(grantEntryName(order), { type: 'grant', grant }),
    revoke: (order: string) => entry(revokeEntryName(order), { type: 'revoke', order }),
  }
}

/** What the machine's files say. */
function createEyes(disk: Disk, layout: Layout, world: World, config: AgentConfig) {
  const recordsOf = (order: string): RunRecord[] => {
    const text = readIfExists(disk, orderLayoutOf(layout, order).records)?.toString('utf8') ?? ''
    const whole = text.slice(0, text.lastIndexOf('\n') + 1)
    return whole.split('\n').flatMap((line) => (line === '' ? [] : [JSON.parse(line) as RunRecord]))
  }
  return {
    files: (order: string): OrderLayout => orderLayoutOf(layout, order),
    recordsOf,
    resultOf: (order: string): Result | undefined => recordsOf(order).find((record) => record.type === 'result'),
    notesOf: (order: string) => recordsOf(order).flatMap((record) => (record.type === 'note' ? [record.text] : [])),
    step: (order: string) => recordsOf(order).findLast((record) => record.type === 'step')?.step,
    log: () => readFileSync(config.logFile, 'utf8'),
    history: () => readIfExists(disk, join(world.root.root, 'var/log/apt/history.log'))?.toString('utf8') ?? '',
  }
}

/** The runner, started as the agent starts it; every one that is left is killed at the end. */
function createStarter(configFile: string) {
  const children: ChildProcess[] = []
  const startRunner = () => {
    const [program = '', ...args] = runnerCommand(configFile)
    const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'], detached: true })
    children.push(child)
    const ended = new Promise<number | string>((resolve) => {
      child.once('exit', (status, signal) => resolve(status ?? signal ?? 'nothing'))
    })
    return { pid: child.pid ?? 0, ended }
  }
  const killAll = () => {
    for (const child of children) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL')
  }
  return { startRunner, killAll }
}

export async function createMachine(scenario: Scenario) {
  const dir = await mkdtemp(join(tmpdir(), 'smith-runner-'))
  const world = await createWorld(dir, scenario)
  const config = configure(world, scenario)
  const disk = createRealDisk()
  const layout = layoutOf(config.stateDir)
  makeStateFolders(disk, layout)
  const signer = createSigner(disk, layout)
  const eyes = createEyes(disk, layout, world, config)
  const { startRunner, killAll } = createStarter(config.file)
  const ask = async (build: string, outageMinutes = 0) => {
    const ports = { disk, processes: await createRealProcesses(), machine: createRealMachine(), now: () => Date.now() }
    return planOnce(ports, { config, build, outageMinutes, clockAheadMs: null, folder: layout.agentPlanning })
  }
  const plan = async (): Promise<Planned> => {
    const planned = await ask('prod')
    if (isRefusal(planned)) throw new Error(planned.message)
    return planned
  }
  const grantAndRun = async (planned: Planned, changes: Partial<GrantPayload> = {}) => {
    const { order, grant } = signer.grantFor(planned, changes)
    signer.drop(order, grant)
    const status = await startRunner().ended
    return { order, status, result: eyes.resultOf(order), records: eyes.recordsOf(order), files: eyes.files(order) }
  }
  return {
    ...world,
    ...signer,
    ...eyes,
    config,
    layout,
    disk,
    ask,
    plan,
    startRunner,
    grantAndRun,
    /** Plans, grants, runs to the end. */
    run: async (changes: Partial<GrantPayload> = {}) => grantAndRun(await plan(), changes),
    check: (when: 'pre' | 'post', name: string, text: string) => {
      mkdirSync(join(config.checksDir, when), { recursive: true })
      writeFileSync(join(config.checksDir, when, name), `#!/bin/sh\n${text}\n`, { mode: 0o755 })
    },
    close: async () => {
      killAll()
      await world.server.close()
      await world.root.close()
      rmSync(dir, { recursive: true, force: true })
    },
  }
}
export type Machine = Awaited<ReturnType<typeof createMachine>>

/** The bytes of all lines put together, after checking that numbers and offsets have neither gap nor repeat. */
export function bytesOfRecords(records: readonly RunRecord[]): Buffer {
  const parts: Buffer[] = []
  let offset = 0
  for (const [index, record] of records.entries()) {
    if (record.n !== index + 1) throw new Error(`record ${record.n} stands at place ${index + 1}`)
    if (record.type !== 'line') continue
    const bytes = 'text' in record ? Buffer.from(record.text) : Buffer.from(record.base64, 'base64')
    if (record.offset !== offset) throw new Error(`record ${record.n} has offset ${record.offset} instead of ${offset}`)
    if (bytes.length > 8192) throw new Error(`record ${record.n} has ${bytes.length} bytes`)
    offset += bytes.length
    parts.push(bytes)
  }
  return Buffer.concat(parts)
}

/** How often apt was started for an order, by its own history. */
export function startsOf(history: string, order: string): number {
  return history.split('\n').filter((line) => line.startsWith('Commandline:') && line.includes(order)).length
}
