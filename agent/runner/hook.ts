/**
 * apt's `DPkg::Pre-Install-Pkgs` hook: under apt's own lock and right before dpkg, every action and the SHA-256 of
 * every archive is compared with the plan. A non-zero exit makes apt stop with nothing changed. What can't be read
 * or understood is refused too.
 */
import { createHash } from 'node:crypto'
import { createReadStream, readFileSync } from 'node:fs'
import { DRIFT_MARK, visible } from '../apt/diagnosis.ts'
import { type HookAction, parseHookInput } from '../apt/parsers.ts'
import { createRealDisk } from '../disk/disk.ts'
import { orderFilesOf } from '../disk/layout.ts'
import type { Plan } from '../../protocol/plan.ts'
import { readCommand } from './command-file.ts'

async function main(): Promise<number> {
  const plan = readCommand(createRealDisk(), orderFilesOf(process.argv[2] ?? ''))?.plan
  const actions = parseHookInput(readFileSync(Number(process.env['APT_HOOK_INFO_FD'] ?? '0'), 'utf8'))
  if (plan === undefined || actions === null)
    return refuse(['what apt says of its actions, or the plan itself, could not be read'])
  const reasons: string[] = []
  for (const action of actions) {
    const reason = await objectionTo(action, plan)
    if (reason !== null) reasons.push(reason)
  }
  return reasons.length === 0 ? 0 : refuse(reasons)
}

function refuse(reasons: readonly string[]): number {
  for (const reason of reasons.slice(0, 20)) process.stdout.write(`${DRIFT_MARK}${visible(reason)}\n`)
  return 1
}

async function objectionTo(action: HookAction, plan: Plan): Promise<string | null> {
  const is = (entry: { name: string; arch: string }, arch: string | null) =>
    entry.name === action.name && entry.arch === arch
  const next = `${action.name}:${action.newArch}=${action.newVersion}`
  const what = action.action
  if (what.kind === 'remove') {
    return plan.removes.some((entry) => is(entry, action.oldArch))
      ? null
      : `${action.name}:${action.oldArch} would be removed`
  }
  const install = plan.installs.find((entry) => is(entry, action.newArch) && entry.version === action.newVersion)
  if (what.kind === 'configure') {
    const isRepair = plan.repairs.some((entry) => is(entry, action.newArch) && entry.version === action.newVersion)
    return install !== undefined || isRepair ? null : `${next} would be configured`
  }
  if (install === undefined) return `${next} would be unpacked`
  const sha256 = await hashOf(what.path)
  return sha256 === install.sha256
    ? null
    : `the archive of ${next} has other content than the one approved (SHA-256 ${sha256})`
}

async function hashOf(path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

main().then(
  (status) => {
    process.exitCode = status
  },
  (error: unknown) => {
    process.exitCode = refuse([`the check itself failed: ${error instanceof Error ? error.message : String(error)}`])
  },
)
