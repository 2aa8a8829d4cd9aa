/**
 * Turns what apt said into a plan: exact actions with hashes, interrupted packages, apt holds, reboot. Pure; the
 * effectful side is planning.ts, and the runner makes its own plan with the same functions right before the latch.
 * Invariant: an action that can't be named exactly (no hash, two contents for one version, a line not understood)
 * makes a refusal and never a plan with a part left out.
 */
import type { Refusal } from '../../protocol/errors.ts'
import {
  type Install,
  type Plan,
  PLAN_ACTIONS_MAX,
  type PlanEvidence,
  planSchema,
  type Remove,
  type Repair,
  sortedPlan,
} from '../../protocol/plan.ts'
import * as v from 'valibot'
import {
  type Archive,
  interruptedStateOf,
  type PackageState,
  parseArchives,
  parseDpkgStatus,
  parseSimulation,
  type Simulation,
} from './parsers.ts'

export type PlanInputs = {
  readonly build: string
  readonly arch: string
  /** `apt-get -s dist-upgrade`. */
  readonly simulation: string
  /** `apt-cache show` of everything that the simulation installs. */
  readonly archives: string
  readonly dpkgStatus: string
  /** A reboot is due already. */
  readonly rebootDue: boolean
  readonly releases: PlanEvidence['releases']
  readonly madeAt: number
}
export type Planned = { readonly plan: Plan; readonly evidence: PlanEvidence; readonly warnings: readonly string[] }

/** `name:arch=version` of every archive that a simulation would unpack. */
export function archivesOf(simulation: Simulation): string[] {
  return simulation.actions
    .filter((action) => action.kind === 'install')
    .map((action) => `${action.name}:${action.arch}=${action.version}`)
}

export function makePlan(inputs: PlanInputs): Planned | Refusal {
  const simulation = parseSimulation(inputs.simulation)
  const status = parseDpkgStatus(inputs.dpkgStatus)
  const misread = misreadOf(simulation)
  if (misread !== null) return misread
  const installs = installsOf(simulation, parseArchives(inputs.archives), status)
  if (!Array.isArray(installs)) return installs
  const removes = removesOf(simulation, status, inputs.arch)
  if (!Array.isArray(removes)) return removes
  const repairs = repairsOf(status)
  const kept = new Set(simulation.keptBack.map((name) => name.replace(/:.*$/, '')))
  const holds = [
    ...new Set([...status.values()].filter((one) => one.isHeld && kept.has(one.name)).map((one) => one.name)),
  ]
  const newKernel = installs.some((entry) => /^linux-image-[0-9]/.test(entry.name) && entry.from === null)
  const plan = sortedPlan({
    v: 1,
    build: inputs.build,
    arch: inputs.arch,
    installs,
    removes,
    repairs,
    holds,
    rebootDue: inputs.rebootDue || newKernel,
    conffiles: 'keep',
  })
  const checked = v.safeParse(planSchema, plan)
  if (!checked.success) {
    const issue = checked.issues[0]
    const where = (issue.path ?? []).map((item) => String(item.key)).join('.')
    return cannotPlan(
      `the plan can't be stated: ${where} ${issue.message}`,
      'Report this with the output of apt-get -s dist-upgrade.',
    )
  }
  return { plan, evidence: evidenceOf(inputs, plan, status), warnings: warningsOf(plan, kept) }
}

/** apt's own counts against what was read of its lines. */
function misreadOf(simulation: Simulation): Refusal | null {
  const count = (kind: string) => simulation.actions.filter((action) => action.kind === kind).length
  if (simulation.counts === null) {
    return cannotPlan(
      'apt-get -s dist-upgrade printed no summary',
      'Run apt-get -s dist-upgrade on the machine and see what it says.',
    )
  }
  const { upgraded, added, removed } = simulation.counts
  if (count('install') < upgraded + added || count('remove') !== removed) {
    return cannotPlan(
      `apt counts ${upgraded} upgraded, ${added} new and ${removed} removed packages, smith read ${count('install')} and ${count('remove')} lines`,
      'Report this with the output of apt-get -s dist-upgrade.',
    )
  }
  if (count('install') > PLAN_ACTIONS_MAX) {
    return cannotPlan(
      `${count('install')} packages would change, more than ${PLAN_ACTIONS_MAX}`,
      'Do a release upgrade by hand; smith only patches.',
    )
  }
  return null
}

function installsOf(
  simulation: Simulation,
  archives: readonly Archive[],
  status: ReadonlyMap<string, PackageState>,
): Install[] | Refusal {
  const known = new Map<string, Archive>()
  for (const archive of archives) {
    const key = `${archive.name}:${archive.arch}=${archive.version}`
    const other = known.get(key)
    if (other !== undefined && other.sha256 !== archive.sha256) {
      return cannotPlan(
        `the repository has two different archives of ${key}`,
        'Have the repository repaired: a version must have one content.',
      )
    }
    known.set(key, archive)
  }
  const installs: Install[] = []
  for (const action of simulation.actions) {
    if (action.kind !== 'install' || action.arch === null || action.version === null) continue
    const key = `${action.name}:${action.arch}=${action.version}`
    const archive = known.get(key)
    if (archive === undefined) {
      return cannotPlan(
        `the repository's index has no SHA-256 for ${key}`,
        'Have the repository indexed with SHA-256 sums.',
      )
    }
    const state = status.get(`${action.name}:${action.arch}`)
    installs.push({
      name: action.name,
      arch: action.arch,
      version: action.version,
      from: action.from ?? (state === undefined || state.state === 'config-files' ? null : state.version),
      sha256: archive.sha256,
      size: archive.size,
    })
  }
  return installs
}

function removesOf(
  simulation: Simulation,
  status: ReadonlyMap<string, PackageState>,
  arch: string,
): Remove[] | Refusal {
  const removes: Remove[] = []
  for (const action of simulation.actions) {
    if (action.kind !== 'remove') continue
    const candidates = action.arch === null ? [arch, 'all'] : [action.arch, 'all']
    const found = candidates.map((one) => status.get(`${action.name}:${one}`)).find((one) => one !== undefined)
    if (found === undefined) {
      return cannotPlan(
        `apt would remove ${action.name}, which dpkg's status does not have`,
        'Run dpkg --audit on the machine.',
      )
    }
    removes.push({ name: found.name, arch: found.arch, version: found.version })
  }
  return removes
}

/** Packages that dpkg left in the middle, whether the simulation names them or not: `dpkg --configure -a` takes them all. */
function repairsOf(status: ReadonlyMap<string, PackageState>): Repair[] {
  return [...status.values()].flatMap((one) => {
    const state = interruptedStateOf(one.state)
    return state === null ? [] : [{ name: one.name, arch: one.arch, version: one.version, state }]
  })
}

function evidenceOf(inputs: PlanInputs, plan: Plan, status: ReadonlyMap<string, PackageState>): PlanEvidence {
  const sizes = new Map(
    parseArchives(inputs.archives).map((one) => [`${one.name}:${one.arch}=${one.version}`, one.installedBytes]),
  )
  let delta = 0
  for (const entry of plan.installs) {
    delta += sizes.get(`${entry.name}:${entry.arch}=${entry.version}`) ?? 0
    if (entry.from !== null) delta -= status.get(`${entry.name}:${entry.arch}`)?.installedBytes ?? 0
  }
  for (const entry of plan.removes) delta -= status.get(`${entry.name}:${entry.arch}`)?.installedBytes ?? 0
  return {
    releases: [...inputs.releases],
    downloadBytes: plan.installs.reduce((sum, entry) => sum + entry.size, 0),
    installedBytesDelta: Math.round(delta),
    madeAt: inputs.madeAt,
  }
}

function warningsOf(plan: Plan, kept: ReadonlySet<string>): string[] {
  const warnings: string[] = []
  if (plan.repairs.length > 0) {
    const names = plan.repairs.map((entry) => `${entry.name} (${entry.state})`)
    warnings.push(`dpkg was interrupted here before; to be repaired: ${shortList(names)}`)
  }
  if (plan.removes.length > 0)
    warnings.push(`packages would be removed: ${shortList(plan.removes.map((entry) => entry.name))}`)
  if (plan.holds.length > 0) warnings.push(`kept back by apt holds: ${shortList(plan.holds)}`)
  const others = [...kept].filter((name) => !plan.holds.includes(name))
  if (others.length > 0) warnings.push(`kept back by apt although not on hold: ${shortList(others)}`)
  return warnings
}

export function shortList(names: readonly string[]): string {
  const shown = names.slice(0, 10).join(', ')
  return names.length > 10 ? `${shown}, +${names.length - 10} more` : shown
}

function cannotPlan(message: string, remedy: string): Refusal {
  return { kind: 'cannot-plan', message, remedy }
}

export function isRefusal(value: object): value is Refusal {
  return 'kind' in value && 'remedy' in value && 'message' in value
}
