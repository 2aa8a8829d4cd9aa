/** What in a health report a person should know besides the cause of the run, with what to type next. Pure. */
import type { Finding, ReportedRun } from '../../../protocol/report.ts'
import { shellWord } from '../../../protocol/shell-word.ts'
import { visible } from '../../apt/diagnosis.ts'
import { holderText } from '../../apt/preflight.ts'
import { shortList } from '../../apt/plan.ts'
import { type Looks, triedText } from './looks.ts'

const INODES_MIN = 1000
/** apt itself refuses a Release file whose Date is further ahead (Acquire::Max-FutureTime). */
const FUTURE_MS_MAX = 10_000

export type FindingsGiven = {
  readonly looks: Looks
  readonly run: ReportedRun | null
  readonly freeBytesMin: number
}

export function findingsOf(given: FindingsGiven): Finding[] {
  return [...space(given), ...packages(given), ...archives(given), ...services(given), ...network(given)].map(
    ({ text, evidence, next }) => ({
      text: visible(text).slice(0, 2000),
      evidence: evidence === null ? null : visible(evidence).slice(0, 2000),
      next: next === null ? null : visible(next).slice(0, 2000),
    }),
  )
}

function space({ looks, freeBytesMin }: FindingsGiven): Finding[] {
  const megabytes = (bytes: number) => `${Math.floor(bytes / 1_000_000)} MB`
  return [
    ...looks.spaces.flatMap(({ path, freeBytes, freeInodes }): Finding[] => [
      ...(freeBytes < freeBytesMin
        ? [
            {
              text: `the file system of ${path} is full${path.endsWith('/boot') ? '; old kernels may go' : ''}`,
              evidence: `${megabytes(freeBytes)} free, ${megabytes(freeBytesMin)} should be`,
              next: path.endsWith('/boot')
                ? 'apt-get autoremove --purge'
                : `du -xm ${shellWord(path)} | sort -n | tail; apt-get clean`,
            },
          ]
        : []),
      ...(freeInodes !== null && freeInodes < INODES_MIN
        ? [
            {
              text: `the file system of ${path} has no inodes left`,
              evidence: `${freeInodes} free`,
              next: `du --inodes -x ${shellWord(path)} | sort -n | tail`,
            },
          ]
        : []),
    ]),
    ...looks.readOnly.map((path) => ({
      text: `${path} is on a file system that can't be written`,
      evidence: null,
      next: 'journalctl -k -b -p err',
    })),
  ]
}

function packages({ looks }: FindingsGiven): Finding[] {
  const { unfinished, held, debt, holders } = looks
  return [
    ...(unfinished.length > 0
      ? [
          {
            text: `${unfinished.length} ${unfinished.length === 1 ? 'package is' : 'packages are'} half installed; a retry repairs that first`,
            evidence: shortList(unfinished.map((one) => `${one.name} is ${one.state}`)),
            next: 'dpkg --audit',
          },
        ]
      : []),
    ...(looks.isJournalLeft && holders.length === 0
      ? [
          {
            text: 'dpkg was interrupted; a retry repairs that first',
            evidence: 'its journal is left in /var/lib/dpkg/updates',
            next: 'dpkg --configure -a',
          },
        ]
      : []),
    ...holders
      .filter(([path]) => !path.endsWith('runner.lock'))
      .map(([path, holder]) => ({
        text: `${path} is held; let that program end, then retry, and never delete a lock file`,
        evidence: `${holderText(holder)}, for ${Math.round(holder.forMs / 1000)} s`,
        next: holder.unit === null ? `ps -fp ${holder.pid}` : `systemctl status ${shellWord(holder.unit)}`,
      })),
    ...(held.length > 0
      ? [
          {
            text: `${held.length} apt ${held.length === 1 ? 'hold' : 'holds'}`,
            evidence: shortList(held),
            next: 'apt-mark showhold',
          },
        ]
      : []),
    ...(debt.length > 0
      ? [
          {
            text: `${debt.length} configuration ${debt.length === 1 ? 'file was' : 'files were'} kept beside a newer one of the package`,
            evidence: shortList(debt),
            next: `diff -u ${shellWord((debt[0] ?? '').replace(/\.[a-z]+-[a-z]+$/, ''))} ${shellWord(debt[0] ?? '')}`,
          },
        ]
      : []),
  ]
}

/** As they were at the run: an archive that was signed anew since is in order. */
function archives({ looks, run }: FindingsGiven): Finding[] {
  return looks.releases.flatMap(({ isOfRun, what, dateAt, validUntilAt }): Finding[] => {
    if (!isOfRun || run === null) return []
    const now = run.at
    const isExpired = validUntilAt !== null && validUntilAt < now
    const isAhead = dateAt !== null && dateAt - now > FUTURE_MS_MAX
    if (!isExpired && !isAhead) return []
    return [
      {
        text: `the Release file of ${what} ${isExpired ? 'had expired' : 'was dated in the future'} at the run; where the clock is right, the repository has to be signed again`,
        evidence: `${isExpired ? 'Valid-Until' : 'Date'} ${new Date((isExpired ? validUntilAt : dateAt) ?? 0).toISOString()}, the run was at ${new Date(now).toISOString()}`,
        next: 'date -u',
      },
    ]
  })
}

function services({ looks }: FindingsGiven): Finding[] {
  const { failedUnits, oomText, rebootDue, isClockKept } = looks
  const killed = oomText.split('\n').filter((line) => /Killed process/.test(line))
  return [
    ...(failedUnits.length > 0
      ? [
          {
            text: `${failedUnits.length} ${failedUnits.length === 1 ? 'unit has' : 'units have'} failed`,
            evidence: shortList([...failedUnits]),
            next: `systemctl status ${failedUnits.slice(0, 5).map(shellWord).join(' ')}`,
          },
        ]
      : []),
    ...(killed.length > 0
      ? [
          {
            text: 'the kernel killed for want of memory in this boot',
            evidence: killed.at(-1) ?? null,
            next: 'free -m; journalctl -k -b',
          },
        ]
      : []),
    ...(rebootDue ? [{ text: 'a reboot is due', evidence: looks.kernelText.replaceAll('\n', ', '), next: null }] : []),
    ...(isClockKept === false
      ? [
          {
            text: 'the clock is not kept right by anything that systemd knows of',
            evidence: 'NTPSynchronized=no',
            next: 'timedatectl',
          },
        ]
      : []),
  ]
}

function network({ looks }: FindingsGiven): Finding[] {
  return looks.connections
    .filter((one) => one.how !== 'connected' && (one.isCoordinator || !looks.isProxied))
    .map((one) => ({
      text: `no connection to ${one.isCoordinator ? 'the coordinator' : 'an archive'}`,
      evidence: triedText(one),
      next: `ip route; getent hosts ${shellWord(one.host)}`,
    }))
}
