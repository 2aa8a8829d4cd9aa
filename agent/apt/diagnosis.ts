/**
 * Names the cause of a failed step from its exit status and output: one of a closed set, the decisive lines quoted,
 * and what to try next. Only labels come from here; no flag, retry or step ever depends on it. Pure.
 */
import type { Cause, Step } from '../../protocol/files.ts'
import type { ProcessEnd } from './processes.ts'

export type Diagnosis = {
  readonly cause: Cause
  readonly message: string
  readonly evidence: readonly string[]
  readonly advice: readonly string[]
}
export type Symptoms = {
  readonly end: ProcessEnd
  readonly output: string
  readonly step: Step
  /** By how much this machine's clock is ahead of the coordinator's; null or left out where that is not known. */
  readonly clockAheadMs?: number | null
  /** How many processes of the run the kernel killed for want of memory. */
  readonly killedForMemory?: number
}

/** What the hook prints before each reason, so that its refusal is told from a failing package. */
export const DRIFT_MARK = 'smith: not in the approved plan: '

type Rule = {
  readonly cause: Cause
  readonly steps?: readonly Step[]
  readonly when?: (symptoms: Symptoms) => boolean
  readonly pattern: RegExp
  readonly message: (match: RegExpExecArray) => string
  readonly advice: readonly string[]
}

export const RETRY_REPAIRS = 'Retry: the run repairs what was left in the middle, then it finishes the plan.'
// sqv, which apt 3 calls on Debian, looks at the time of the signature before apt looks at the Release file's.
const STALE_RELEASE =
  /Release file for (\S+) is (not valid yet|not yet valid|expired)[^\n]*|Verifying signature:\s+Not live until \S+/

/** What was measured holds the time that the coordinator's word was on its way, so ahead is allowed more. */
function isClockRight(aheadMs: number | null): boolean {
  return aheadMs !== null && aheadMs >= -10_000 && aheadMs <= 60_000
}
function unreachable(match: RegExpExecArray): string {
  return `the repository could not be reached or did not answer: ${match[0].trim()}`
}
const UNREACHABLE_ADVICE = ['Check name resolution, network and proxy from the machine to the repository, then retry.']

/** In this order: the first that matches any line names the cause, so what explains other errors stands first. */
const RULES: readonly Rule[] = [
  {
    cause: 'plan-drift',
    pattern: /^smith: not in the approved plan: (.*)$/m,
    message: (match) => `apt was about to do what was not approved, and was stopped with nothing changed: ${match[1]}`,
    advice: ['Plan again and have the new plan approved.'],
  },
  {
    cause: 'disk',
    pattern:
      /No space left on device|You don't have enough free space in (\S+)|Disk quota exceeded|Read-only file system/,
    message: (match) =>
      /Read-only/.test(match[0])
        ? 'a filesystem is read-only'
        : `the disk is full${match[1] === undefined ? '' : ` at ${match[1]}`}`,
    advice: ['Free space on the machine (df -h, apt-get clean, old kernels in /boot), then retry.'],
  },
  {
    cause: 'lock',
    pattern:
      /^E: Could not get lock (?<path>\S+?)\.?(?: It is held by process (?<pid>\d+) \((?<holder>.+?)\))?$|^Waiting for cache lock: Could not get lock (?<path>\S+?)\. It is held by process (?<pid>\d+) \((?<holder>.+?)\)(?=[^]*^E: Unable to (?:acquire|lock) )|(?:frontend|database) lock was locked by (?:another|(?<holder>\S+)) process(?: with pid (?<pid>\d+))?|^E: Unable to (?:acquire the dpkg frontend lock|lock directory|lock the administration directory)(?: \((?<path>\S+)\))?/m,
    message: ({ groups: { path, pid, holder } = {} }) => {
      const program =
        pid === undefined ? 'another program' : `process ${pid}${holder === undefined ? '' : ` (${holder})`}`
      return `${program} holds the lock of apt or dpkg${path === undefined ? '' : ` (${path})`}`
    },
    advice: ['Let that program end (ps -fp PID), then retry. Never delete a lock file.'],
  },
  {
    cause: 'repo',
    when: ({ clockAheadMs }) => isClockRight(clockAheadMs ?? null),
    pattern: STALE_RELEASE,
    message: (match) =>
      `the repository's Release file is ${match[2] ?? 'not valid yet'}, and this machine's clock agrees with the coordinator's`,
    advice: [
      'This is the same for every machine: have the repository signed again, and see that the clock of whoever signed it is right; then retry.',
    ],
  },
  {
    cause: 'clock',
    pattern: STALE_RELEASE,
    message: (match) => `the repository's Release file is ${match[2] ?? 'not valid yet'} by this machine's clock`,
    advice: [
      'Compare date -u with a clock that is right and mend time synchronisation; if the clock is right, the repository must be signed again.',
    ],
  },
  {
    // apt says of an InRelease file that a server refused or could not send that the repository is not signed.
    cause: 'fetch',
    steps: ['update', 'replan', 'fetch'],
    pattern: /\b(?:40[137]|5[0-9][0-9])  [A-Z][^\n]*/,
    message: unreachable,
    advice: UNREACHABLE_ADVICE,
  },
  {
    cause: 'repo',
    steps: ['update', 'replan', 'fetch'],
    pattern:
      /NO_PUBKEY \S+|Missing key [0-9A-F]+|EXPKEYSIG \S+|BADSIG \S+|REVKEYSIG \S+|is not signed\.|does not have a Release file|no longer has a Release file|Hash Sum mismatch|File has unexpected size[^\n]*|Clearsigned file isn't valid[^\n]*|changed its '\S+' value[^\n]*|Malformed (?:entry|stanza|line)[^\n]*|The list of sources could not be read|Unable to parse package file[^\n]*|Encountered a section with no Package: header/,
    message: (match) => `the repository can't be used: ${match[0]}`,
    advice: ['This is the same for every machine: have the repository mended (index, signature, key), then retry.'],
  },
  {
    cause: 'dpkg-interrupted',
    pattern:
      /dpkg was interrupted, you must manually run[^\n]*|The package (\S+) needs to be reinstalled, but I can't find an archive for it/,
    message: (match) =>
      match[1] === undefined
        ? 'dpkg was interrupted before'
        : `${match[1]} is half installed and its archive is in no repository`,
    advice: ['Run dpkg --audit on the machine; plan again, so that the repair is part of the plan.'],
  },
  {
    cause: 'conffile',
    pattern:
      /end of file on (?:stdin|<standard input>) at conffile prompt|conffile '([^']+)'[^\n]*|EOF on stdin at conffile prompt/,
    message: (match) =>
      `a package asked what to do with a changed configuration file${match[1] === undefined ? '' : ` (${match[1]})`}`,
    advice: ['Settle the configuration file by hand, then retry.'],
  },
  {
    cause: 'repo',
    steps: ['install'],
    pattern: /^ (trying to overwrite '[^\n]+', which is also in package [^\n]+)$/m,
    message: (match) => `two packages bring the same file: ${match[1]}`,
    advice: [
      'This is the same for every machine that has both: have the newer package mended (Breaks and Replaces), or have the other one removed by a plan; then retry.',
    ],
  },
  {
    cause: 'maintainer-script',
    steps: ['install', 'post-checks'],
    pattern:
      /^ (?:(?:installed|new|old) )?(\S+) package (\S+) (?:maintainer )?script subprocess was killed by signal \(Killed\)/m,
    message: (match) => `the ${match[2]} script of ${match[1]} failed: was killed by signal (Killed)`,
    advice: [
      'The kernel kills so for want of memory (journalctl -k --grep "out of memory"), or a person does: free memory, then retry; the retry repairs the package first.',
    ],
  },
  {
    cause: 'maintainer-script',
    steps: ['install', 'post-checks'],
    // Below `dpkg: error`; a line of `dpkg: warning` is of a script that dpkg had another way around.
    pattern:
      /^ (?:(?:installed|new|old) )?(\S+) package (\S+) (?:maintainer )?script subprocess (?:failed with )?((?:returned error )?exit status \d+|was killed by signal[^\n]*|was interrupted)/m,
    message: (match) => `the ${match[2]} script of ${match[1]} failed: ${match[3]}`,
    advice: [
      'Read the lines that the script printed above the error, mend what it complains of, then retry: the retry repairs the package first.',
    ],
  },
  {
    cause: 'dpkg-interrupted',
    steps: ['install', 'post-checks'],
    pattern:
      /Sub-process (\S*dpkg (?:exited unexpectedly|received (?:a segmentation fault|signal \d+)))|^ ?(\S+(?: --\S+)?) subprocess (was killed by signal[^\n]*)/m,
    message: (match) => match[1] ?? `${match[2]} ${match[3]}`,
    advice: [RETRY_REPAIRS],
  },
  {
    cause: 'apt-hold',
    pattern: /Held packages were changed and -y was used|have held broken packages|held broken packages/,
    message: () => 'apt holds stand in the way of the upgrade',
    advice: ['See apt-mark showhold on the machine; release the hold or change the plan.'],
  },
  {
    cause: 'repo',
    steps: ['update', 'replan'],
    pattern: /unmet dependencies|Unable to correct problems/,
    message: () => 'the repository does not satisfy its own dependencies on this machine',
    advice: ['Run apt-get -s dist-upgrade on the machine; have the repository completed.'],
  },
  {
    cause: 'fetch',
    pattern:
      /Could not resolve '([^']+)'|Temporary failure resolving '([^']+)'|Could not connect to (\S+)|Connection (?:failed|timed out|refused|reset)[^\n]*|Unable to connect to (\S+?):?(?:\s|$)|Certificate verification failed[^\n]*|Failed to fetch (\S+)[^\n]*|Unable to fetch some archives|Undetermined Error|\b(?:40[0-9]|5[0-9][0-9])  [A-Z][^\n]*/,
    message: unreachable,
    advice: UNREACHABLE_ADVICE,
  },
]

const DECISIVE =
  /^(E: |W: (?:Failed|GPG error|(?:OpenPGP s|S)ignature verification|Some index)|Err:|dpkg: error|dpkg \(subprocess\): |smith: )/
const EVIDENCE_LINES_MAX = 12
const LINE_MAX = 500

export function diagnose(symptoms: Symptoms): Diagnosis {
  const diagnosis = diagnosisOf(symptoms)
  const killed = symptoms.killedForMemory ?? 0
  if (killed === 0) return diagnosis
  const what = `the kernel killed ${killed} ${killed === 1 ? 'process' : 'processes'} of the run for want of memory`
  return {
    ...diagnosis,
    message: `${diagnosis.message}; ${what}`,
    advice: [
      'Give the machine memory or swap, or stop what takes it (journalctl -k has what was killed).',
      ...diagnosis.advice,
    ],
  }
}

function diagnosisOf(symptoms: Symptoms): Diagnosis {
  const evidence = evidenceOf(symptoms.output)
  const { end } = symptoms
  if (end.problem !== null) {
    return {
      cause: 'internal',
      message: `the program could not be started: ${end.problem}`,
      evidence,
      advice: ['Check that apt, dpkg, flock and setpriv are installed.'],
    }
  }
  for (const rule of RULES) {
    if (rule.steps !== undefined && !rule.steps.includes(symptoms.step)) continue
    if (rule.when?.(symptoms) === false) continue
    const match = rule.pattern.exec(symptoms.output)
    if (match === null) continue
    return {
      cause: rule.cause,
      message: visible(rule.message(match)).slice(0, 2000),
      evidence: withMatch(evidence, symptoms.output, match),
      advice: rule.advice,
    }
  }
  return { ...fallbackOf(symptoms), evidence: evidence.length > 0 ? evidence : lastLines(symptoms.output) }
}

function fallbackOf(symptoms: Symptoms): Pick<Diagnosis, 'cause' | 'message' | 'advice'> {
  const { end, step } = symptoms
  if (end.timedOut) {
    return {
      cause:
        step === 'update' || step === 'fetch'
          ? 'fetch'
          : step === 'pre-checks' || step === 'post-checks'
            ? 'check'
            : 'internal',
      message: `the ${step} step took longer than its limit and was ended`,
      advice: ['See what it was waiting for in the lines above; the limits are in agent.toml.'],
    }
  }
  if (step === 'install' && end.signal !== null)
    return { cause: 'dpkg-interrupted', message: `apt was killed by ${end.signal}`, advice: [RETRY_REPAIRS] }
  const how = end.signal === null ? `exit status ${end.status}` : `signal ${end.signal}`
  const cause: Cause =
    step === 'update'
      ? 'repo'
      : step === 'fetch'
        ? 'fetch'
        : step === 'pre-checks' || step === 'post-checks'
          ? 'check'
          : 'internal'
  return {
    cause,
    message: `the ${step} step ended with ${how}`,
    advice: ['Read the last lines of the log of this step.'],
  }
}

/** The lines that apt and dpkg mark as errors, and with each the line before and after, where the reason often stands. */
function evidenceOf(output: string): string[] {
  const lines = output.split('\n')
  const wanted = new Set<number>()
  lines.forEach((line, index) => {
    if (!DECISIVE.test(line)) return
    if (line.startsWith('dpkg: error') && index > 0) wanted.add(index - 1)
    wanted.add(index)
    if (lines[index + 1]?.startsWith(' ') === true) wanted.add(index + 1)
  })
  return [...wanted]
    .toSorted((a, b) => a - b)
    .map((index) => shown(lines[index] ?? ''))
    .filter((line) => line.trim() !== '')
    .slice(-EVIDENCE_LINES_MAX)
}

function withMatch(evidence: readonly string[], output: string, match: RegExpExecArray): string[] {
  const start = output.lastIndexOf('\n', match.index) + 1
  const stop = output.indexOf('\n', match.index)
  const line = shown(output.slice(start, stop < 0 ? undefined : stop))
  return line === '' || evidence.includes(line) ? [...evidence] : [line, ...evidence].slice(0, EVIDENCE_LINES_MAX)
}

function lastLines(output: string): string[] {
  return output
    .split('\n')
    .filter((line) => line.trim() !== '')
    .slice(-5)
    .map(shown)
}

function shown(line: string): string {
  return visible(line).slice(0, LINE_MAX)
}

/** Control characters as visible escapes, so that no package draws on the terminal of whoever reads. */
export function visible(text: string): string {
  // oxlint-disable-next-line no-control-regex -- they are what is looked for
  return text.replaceAll(/[\u0000-\u0008\u000a-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, (char) => {
    const code = char.codePointAt(0) ?? 0
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16)}`
  })
}
