/** The judge of real machines finds what it is there for: each kind of wrong is planted on a disk and named. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import type { RunRecord } from '../../protocol/files.ts'
import type { Plan } from '../../protocol/plan.ts'
import { PACKAGES } from './account.ts'
import { Accounted, Judge } from './judge.ts'
import { openOracle } from './oracle.ts'

const CHANGE = 'CHG0000001'
const DIGEST = 'd'.repeat(64)
const HASH = 'e'.repeat(64)
const PLAN: Plan = {
  v: 1,
  build: '1001',
  arch: 'amd64',
  installs: PACKAGES.map((name) => ({ name, arch: 'all', version: '1.1', from: '1.0', sha256: HASH, size: 1 })),
  removes: [],
  repairs: [],
  holds: [],
  rebootDue: false,
  conffiles: 'keep',
}
const EVIDENCE = { releases: [], downloadBytes: 0, installedBytesDelta: 0, madeAt: 1 }

type Wrong = {
  readonly isApproved?: boolean
  readonly planHash?: string
  readonly version?: string
  readonly aptRuns?: number
  /** The second machine claims while the first is at work. */
  readonly overlaps?: boolean
  readonly hasResult?: boolean
  readonly isPrinted?: boolean
  readonly isStored?: boolean
  /** The result is told before apt has ended. */
  readonly isEarly?: boolean
}

/** Two machines, patched one after another, with something wrong at the first; what the judge says of it. */
function judged(t: Test, wrong: Wrong): string[] {
  const dir = t.testdir({})
  const oracle = openOracle(join(dir, 'oracle'))
  const names = ['prod-dal10-web-1', 'prod-dal10-web-2']
  const plans = Object.fromEntries(names.map((name) => [name, { planHash: HASH, plan: PLAN }]))
  oracle.write({ what: 'raised', change: CHANGE, digest: DIGEST, plans })
  if (wrong.isApproved !== false) oracle.write({ what: 'approved', change: CHANGE, digest: DIGEST })
  const begin = Date.now() + 1000
  const hosts = names.map((name, index) => {
    const machine = { name, dir: join(dir, name), stateDir: join(dir, name, 'state') }
    return new Accounted(machine, String(index).repeat(32), '1.0')
  })
  const judge = new Judge(oracle, hosts)
  for (const [index, host] of hosts.entries()) {
    const at = begin + (wrong.overlaps === true ? index * 50 : index * 10_000)
    const stored = plant(host, String(index + 5).repeat(32), at, index + 1, index === 0 ? wrong : {})
    judge.compareLog(host, String(index + 5).repeat(32), stored)
  }
  judge.hear()
  oracle.close()
  return judge.ledger.violations
}

/** What a run leaves on its machine; the answer is what the coordinator stored of it. */
function plant(host: Accounted, order: string, at: number, fence: number, wrong: Wrong): RunRecord[] {
  const { version = '1.1', aptRuns = 1 } = wrong
  const folder = join(host.machine.stateDir, 'run/orders', order)
  mkdirSync(folder, { recursive: true })
  const payload = {
    type: 'smith-grant-v1',
    order,
    machine: host.id,
    change: CHANGE,
    fence,
    build: '1001',
    planHash: wrong.planHash ?? HASH,
    attempt: 1,
    outageMinutes: 0,
    issuedAt: at - 10,
    startBy: at + 60_000,
  }
  const grant = {
    payload: Buffer.from(JSON.stringify(payload)).toString('base64'),
    signature: 'AAAA',
    keyId: HASH,
    plan: PLAN,
    evidence: EVIDENCE,
  }
  writeFileSync(join(folder, 'grant.json'), JSON.stringify({ type: 'grant', grant }))
  writeFileSync(join(folder, 'fate'), JSON.stringify({ fate: 'claim', fence, at }))
  const say = (ms: number, words: string) => `${at + ms}000000 ${words}`
  const scripts = (what: string, ms: number) =>
    PACKAGES.map((name) => say(ms, `package ${what} ${order} ${name} ${version}`))
  const account = [
    ...Array.from({ length: aptRuns }, () => say(100, `apt begin ${order}`)),
    ...scripts('begin', 110),
    ...scripts('end', 120),
    ...Array.from({ length: aptRuns }, () => say(130, `apt end ${order}`)),
  ]
  writeFileSync(join(host.machine.dir, 'account'), `${account.join('\n')}\n`)
  const output = account.filter((line) => line.includes(' package ')).slice(wrong.isPrinted === false ? 1 : 0)
  writeFileSync(join(folder, 'output'), output.map((line) => `${line}\n`).join(''))
  const records = recordsOf(output, wrong.isEarly === true ? at + 115 : at + 200).slice(
    0,
    wrong.hasResult === false ? -1 : undefined,
  )
  writeFileSync(join(folder, 'records'), records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  return wrong.isStored === false ? records.slice(0, -2) : records
}

function recordsOf(output: readonly string[], endedAt: number): RunRecord[] {
  const lines = output.map((text, index): RunRecord => {
    return { n: index + 1, at: endedAt - 1, type: 'line', step: 'install', offset: 0, text: `${text}\n` }
  })
  const result: RunRecord = {
    ...{ n: lines.length + 1, at: endedAt, type: 'result', outcome: 'succeeded', cause: null, step: 'verify' },
    ...{ message: 'done', evidence: [], advice: [], latched: true, rebootPending: false, installed: [] },
    ...{ outputBytes: 0, outputSha256: HASH },
  }
  return [...lines, result]
}

t.test('[KIL-3] the judge of real machines finds each kind of wrong, and nothing where all is well', async (t) => {
  t.strictSame(judged(t, {}), [])
  const planted: readonly (readonly [Wrong, string])[] = [
    [{ isApproved: false }, 'SIM-6 approved'],
    [{ planHash: 'f'.repeat(64) }, 'SIM-7 approved plan'],
    [{ version: '1.2' }, 'SIM-7 approved plan'],
    [{ aptRuns: 2 }, 'SIM-5 once'],
    [{ aptRuns: 0 }, 'KIL-2 account'],
    [{ overlaps: true }, 'SIM-4 serial'],
    [{ hasResult: false }, 'KIL-2 ends'],
    [{ isPrinted: false }, 'SIM-8 log'],
    [{ isStored: false }, 'SIM-8 log'],
    [{ isEarly: true }, 'SIM-12 truth'],
  ]
  for (const [wrong, rule] of planted) {
    const found = judged(t, wrong)
    t.ok(
      found.some((one) => one.startsWith(rule)),
      `${JSON.stringify(wrong)}: ${JSON.stringify(found)}`,
    )
  }
})
