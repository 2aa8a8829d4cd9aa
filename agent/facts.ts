/**
 * What the machine says of itself at enrolment and in each hello. What costs a process is asked once at the start;
 * what can change is read anew each time. Called by main's programs only.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { release } from 'node:os'
import type { Facts } from '../protocol/agent.ts'
import type { Refusal } from '../protocol/errors.ts'
import { createRealMachine, unreadableConfiguration } from './apt/planning.ts'
import { isRebootDue } from './apt/reboot.ts'
import { knownBuilds } from './apt/sources.ts'
import { distrusted, steeringPaths } from './apt/trust.ts'
import type { AgentConfig } from './config.ts'
import type { Disk } from './disk/disk.ts'
import { type Layout, layoutOf } from './disk/layout.ts'
import type { Description } from './ports.ts'
import { problemOf } from './session/guard.ts'

const ASK_MS_MAX = 10_000
const ASK_ENVIRONMENT = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C.UTF-8' }
const TEXT_CHARACTERS_MAX = 2000

/** Answers a function that describes the machine as it is at the call. */
export function createDescribe(config: AgentConfig, disk: Disk): () => Description {
  const machine = createRealMachine()
  const target = { root: config.aptRoot }
  const fixed = {
    agentVersion: packageVersion(),
    os: osName(),
    arch: ask('dpkg', ['--print-architecture']),
    kernel: release(),
    apt: /^apt (\S+)/.exec(ask('apt-get', ['--version']))?.[1] ?? 'unknown',
    cluster: config.identity.cluster,
    region: config.identity.region,
  }
  return () => {
    const rebootPending = orElse(false, () => isRebootDue({ disk, machine }, target, config.rebootWhen))
    const facts: Facts = { ...fixed, rebootPending }
    const known = orElse({ builds: [], template: false }, () => knownBuilds(disk, config.reposDir))
    const impediment = findImpediment(config, disk)
    return { facts, bootId: bootId(), builds: known.builds.slice(0, 256), template: known.template, impediment }
  }
}

/** Why this machine can take no order now; null when it can. */
export function findImpediment(config: AgentConfig, disk: Disk): Refusal | null {
  const known = orElse({ builds: [], template: false }, () => knownBuilds(disk, config.reposDir))
  const ports = { disk, machine: createRealMachine() }
  return (
    orElse<Refusal | null>(null, () => unreadableConfiguration(ports, { root: config.aptRoot })) ??
    impedimentOf(disk, layoutOf(config.stateDir), config, known)
  )
}

function impedimentOf(
  disk: Disk,
  layout: Layout,
  config: AgentConfig,
  known: { builds: readonly string[]; template: boolean },
): Refusal | null {
  if (orElse(null, () => disk.factsOf(layout.grantKey)) === null) {
    return {
      kind: 'unavailable',
      message: `${layout.grantKey} is missing, so no grant could be verified`,
      remedy: 'Enrol the machine again as root.',
    }
  }
  // The runner that systemd starts is root's.
  const distrust = config.runMode === 'systemd' ? orElse(null, () => distrusted(steeringPaths(disk, config))) : null
  if (distrust !== null) return distrust
  if (config.runMode === 'systemd' && isPathUnitDown()) {
    return {
      kind: 'unavailable',
      message: 'smith-run.path is not active, so nothing would start a run',
      remedy: 'On the machine, as root: systemctl enable --now smith-run.path',
    }
  }
  if (known.builds.length === 0 && !known.template) {
    return {
      kind: 'unknown-build',
      message: `no repository is configured in ${config.reposDir}`,
      remedy: `Put prod.sources (deb822) into ${config.reposDir} on the machine.`,
    }
  }
  return null
}

/** Only when systemd says so: without D-Bus it can't be asked, and that is no reason to refuse. */
function isPathUnitDown(): boolean {
  const asked = spawnSync('systemctl', ['is-active', 'smith-run.path'], {
    encoding: 'utf8',
    timeout: ASK_MS_MAX,
    env: ASK_ENVIRONMENT,
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  return ['inactive', 'failed'].includes((asked.stdout ?? '').trim())
}

/** An unknown fact must not keep the machine from being seen; planning names what is wrong. */
function orElse<T>(fallback: T, read: () => T): T {
  try {
    return read()
  } catch {
    return fallback
  }
}

function ask(program: string, argv: readonly string[]): string {
  try {
    return execFileSync(program, argv, {
      encoding: 'utf8',
      timeout: ASK_MS_MAX,
      env: ASK_ENVIRONMENT,
      stdio: ['ignore', 'pipe', 'ignore'],
    })
      .trim()
      .slice(0, TEXT_CHARACTERS_MAX)
  } catch (error) {
    return `unknown (${problemOf(error).split('\n')[0]})`.slice(0, TEXT_CHARACTERS_MAX)
  }
}

function osName(): string {
  const text = orElse('', () => readFileSync('/etc/os-release', 'utf8'))
  return (/^PRETTY_NAME="?([^"\n]*)"?$/m.exec(text)?.[1] ?? 'unknown').slice(0, TEXT_CHARACTERS_MAX)
}

/** Differs after every boot (random(4)); the kernel's own, so no agent can keep it over a reboot. */
function bootId(): string {
  return orElse('0', () => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim())
}

export function packageVersion(): string {
  return orElse('unknown', () => {
    const json: unknown = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
    return typeof json === 'object' && json !== null && 'version' in json && typeof json.version === 'string'
      ? json.version
      : 'unknown'
  })
}
