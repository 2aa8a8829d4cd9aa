/**
 * Judges what smith does with changes in ServiceNow by what that instance itself has: whether a change permitted a grant
 * in the instant in which it answered the look that the grant was based on, and that nothing was made twice, forgotten
 * or left open. It never asks the coordinator what ServiceNow said.
 */
import { instantOf } from '../../coordinator/change/servicenow/records.ts'
import type { Turn } from '../../coordinator/ports.ts'
import type { Project, TableName, Tables } from '../../coordinator/domain/state.ts'
import type { Record_ } from '../servicenow/records.ts'
import type { StandIn } from '../servicenow/stand-in.ts'
import type { Ledger } from './ledger.ts'
import { PERMISSION_AGE_MS_MAX } from './givens.ts'

/** One look at a change that ServiceNow answered truly, as the change was in that instant. */
export type Read = {
  /** By the coordinator's clock, when it was asked for. */
  readonly sentAt: number
  /** Why the change permitted nothing; null when it permitted. */
  readonly objection: string | null
  readonly digest: string
  readonly window: { readonly start: number; readonly end: number }
  /** The answer came to a coordinator that lived. */
  isHeard: boolean
}
type Disk = {
  readonly onDisk: <Name extends TableName>(table: Name, key: string) => Tables[Name] | undefined
  readonly projects: () => readonly Project[]
}

const NOTE_OF_GRANT = /^(\S+): try ([0-9]+) granted\n/
const ENDED = ['3', '4']

/** Owns what was read of each change, and how often its machines were granted. */
export class ChangeJudge {
  readonly #standIn: StandIn
  readonly #ledger: Ledger
  readonly #disk: Disk
  readonly #reads = new Map<string, Read[]>()
  readonly #granted = new Map<string, number>()
  #isOld = false

  constructor(standIn: StandIn, ledger: Ledger, disk: Disk) {
    this.#standIn = standIn
    this.#ledger = ledger
    this.#disk = disk
  }

  /** ServiceNow answers what a change permits. */
  read(sysId: string, sentAt: number): Read | null {
    const row = this.#standIn.records.table('change_request').get(sysId)
    if (row === undefined) return null
    const read: Read = {
      sentAt,
      objection: this.#objectionTo(row),
      digest: (row['correlation_display'] ?? '').replace('digest ', ''),
      window: { start: instantOf(row['start_date'] ?? '') ?? 0, end: instantOf(row['end_date'] ?? '') ?? 0 },
      isHeard: false,
    }
    this.#reads.set(sysId, [...(this.#reads.get(sysId) ?? []), read])
    return read
  }

  #objectionTo(row: Record_): string | null {
    if (row['state'] !== '-2' && row['state'] !== '-1') return `it was in state ${row['state']}`
    if (row['approval'] !== 'approved') return `its approval was ${row['approval']}`
    if (row['on_hold'] !== 'false') return 'it was on hold'
    const project = this.#disk.onDisk('projects', (row['correlation_id'] ?? '').replace('smith:', ''))
    const approvers = this.#standIn.records
      .all('sysapproval_approver')
      .filter((one) => one['sysapproval'] === row['sys_id'] && one['state'] === 'approved')
    const isByOther = approvers.some((one) => one['approver.user_name'] !== project?.requester)
    return isByOther ? null : 'nobody but its requester had approved it'
  }

  /** A turn is on disk: what it grants was permitted by a look of its own, made for this grant alone. */
  committed({ at, row }: Turn): void {
    for (const { fact, project: id, machine } of row.facts)
      if (fact === 'orderGranted' && id !== undefined) this.#judgeGrant(at, id, machine ?? '')
  }

  #judgeGrant(at: number, id: string, machine: string): void {
    const project = this.#disk.onDisk('projects', id)
    const sysId = this.#disk.onDisk('remoteChanges', id)?.sysId ?? ''
    const key = `${id} ${machine}`
    this.#granted.set(key, (this.#granted.get(key) ?? 0) + 1)
    const reads = this.#reads.get(sysId) ?? []
    const last = reads.findLastIndex((read) => read.isHeard)
    this.#reads.set(sysId, reads.slice(last + 1))
    const read = reads[last]
    const problem = read === undefined ? 'and nobody had asked for it' : problemOf(read, at, project?.digest ?? '')
    if (problem === null) return this.#permitted(project?.digest ?? '', at)
    this.#ledger.violate('SIM-40 permitted', `${machine} of ${project?.change} was granted at ${at}, ${problem}`)
  }

  /** At this instant, and at no other. */
  #permitted(digest: string, at: number): void {
    this.#ledger.approved(digest, at)
    this.#ledger.unapproved(digest, at)
  }

  /** An older database takes the place of the present one: it does not know all that was told of its changes. */
  databaseLost(): void {
    this.#isOld = true
  }

  /** Nothing is there twice. */
  checkOnce(): void {
    const { records } = this.#standIn
    const once = (what: string, rows: readonly Record_[], key: (row: Record_) => string) => {
      const seen = new Set<string>()
      for (const row of rows) {
        if (seen.has(key(row))) this.#ledger.violate('SIM-41 once', `${what} is there twice: ${key(row)}`)
        seen.add(key(row))
      }
    }
    const isOurs = (row: Record_) => (row['correlation_id'] ?? '') !== ''
    once('a change', records.all('change_request').filter(isOurs), (row) => row['correlation_id'] ?? '')
    once('a task', records.all('change_task').filter(isOurs), (row) => row['correlation_id'] ?? '')
    once('a plan', records.all('sys_attachment'), (row) => `${row['table_sys_id']} ${row['file_name']}`)
    once('a note', records.all('sys_journal_field'), (row) => `${row['element_id']} ${row['value']}`)
  }

  /** All has healed, and every project of the database has ended. */
  checkEnd(): void {
    for (const project of this.#disk.projects()) this.#checkEnded(project)
  }

  #checkEnded(project: Project): void {
    const { records } = this.#standIn
    const forgotten = (text: string) => this.#ledger.violate('SIM-42 told', `${project.change}: ${text}`)
    if (project.change === null) return
    const change = records.all('change_request').find((row) => row['number'] === project.change)
    if (change === undefined) return forgotten('ServiceNow does not have it')
    if (!ENDED.includes(change['state'] ?? '')) forgotten(`its project ended, and it is in state ${change['state']}`)
    const tasks = records.tasksOf(change)
    const open = tasks.filter((task) => !ENDED.includes(task['state'] ?? ''))
    if (open.length > 0) forgotten(`${open.map((task) => task['number']).join(', ')} are open`)
    const mine = tasks.filter((task) => (task['correlation_id'] ?? '') !== '')
    if (mine.length !== project.bags) forgotten(`it has ${mine.length} tasks for ${project.bags} bags`)
    if (!this.#isOld) this.#checkNotes(project, mine, forgotten)
  }

  /** Each grant is noted. */
  #checkNotes(project: Project, tasks: readonly Record_[], forgotten: (text: string) => void): void {
    const noted = new Map<string, number>()
    for (const task of tasks)
      for (const note of this.#standIn.records.notesOf(task['number'] ?? '')) {
        const [, machine] = NOTE_OF_GRANT.exec(note) ?? []
        if (machine !== undefined) noted.set(machine, (noted.get(machine) ?? 0) + 1)
      }
    for (const [key, count] of this.#granted) {
      const [id, machine = ''] = key.split(' ')
      if (id === project.id && noted.get(machine) !== count)
        forgotten(`${machine} was granted ${count} times, and ${noted.get(machine) ?? 0} are noted`)
    }
  }
}

/** Why a grant at this instant of the coordinator's clock can't be based on this look. */
function problemOf(read: Read, at: number, digest: string): string | null {
  if (read.objection !== null) return `and when ServiceNow was asked ${read.objection}`
  if (at - read.sentAt > PERMISSION_AGE_MS_MAX) return `${at - read.sentAt} ms after ServiceNow was asked`
  if (at < read.window.start || at >= read.window.end) return 'outside the window that ServiceNow told'
  return read.digest === digest ? null : 'and what ServiceNow permitted was another plan'
}
