/**
 * The machines that a source outside smith says there are, and what a word of a request means among them. Called by
 * selection.ts. What exists comes from the source, what can be patched from the agents. Whatever the source was asked,
 * each name is matched here again, so that a filter that it ignored widens no request.
 */
import type { Refusal } from '../../protocol/errors.ts'
import { compareNaturally } from '../../protocol/natural-order.ts'
import type { View } from './draft.ts'
import type { KnownMachine } from './known.ts'
import { nearestNames } from './nearest.ts'
import { type MachineWord, normalAddress } from './request.ts'
import type { Machine } from './state.ts'

/** A machine that is there and can't be patched; `except:` takes it out like any other. */
export type Absent = {
  readonly name: string
  readonly matched: boolean
  /** Completes `web-1 ...` and `3 machines that match web-* ...`. */
  readonly why: string
  readonly remedy: string
  readonly word: MachineWord['word']
  /** It lacks an agent and nothing else: offline:skip leaves it out when it was only matched. */
  readonly maySkip: boolean
}
export type Finds = {
  readonly machines: { readonly machine: Machine; readonly matched: boolean }[]
  readonly absent: Absent[]
  readonly refusals: Refusal[]
}
export type KnownIndex = {
  readonly source: string
  readonly machines: readonly KnownMachine[]
  readonly byName: ReadonlyMap<string, readonly KnownMachine[]>
  readonly byAddress: ReadonlyMap<string, readonly KnownMachine[]>
  /** The machines with a domain in their name, by what stands before its first dot. */
  readonly byHost: ReadonlyMap<string, readonly KnownMachine[]>
}

export function indexOf(known: { readonly source: string; readonly machines: readonly KnownMachine[] }): KnownIndex {
  const byName = new Map<string, KnownMachine[]>()
  const byAddress = new Map<string, KnownMachine[]>()
  const byHost = new Map<string, KnownMachine[]>()
  const add = (map: Map<string, KnownMachine[]>, key: string, machine: KnownMachine) => {
    const list = map.get(key)
    if (list === undefined) map.set(key, [machine])
    else list.push(machine)
  }
  for (const machine of known.machines) {
    const { name } = machine
    if (name !== null) add(byName, name, machine)
    if (name?.includes('.') === true) add(byHost, hostOf(name), machine)
    for (const address of new Set(machine.addresses.map(normalAddress))) add(byAddress, address, machine)
  }
  return { source: known.source, machines: known.machines, byName, byAddress, byHost }
}

const hostOf = (name: string) => name.split('.')[0] ?? name

/** The same machine's name with a domain and without, which the source has as two machines. */
function namesakes(index: KnownIndex, name: string): readonly KnownMachine[] {
  return (name.includes('.') ? index.byName.get(hostOf(name)) : index.byHost.get(name)) ?? []
}

/** Everything but itself that a machine's name may mean too. */
function rivalsOf(index: KnownIndex, known: KnownMachine): KnownMachine[] {
  if (known.name === null) return []
  const { name } = known
  const all = [
    ...(index.byName.get(name) ?? []),
    ...(index.byAddress.get(normalAddress(name)) ?? []),
    ...namesakes(index, name),
  ]
  return [...new Set(all)].filter((other) => other !== known)
}

const shownAs = ({ id, name }: KnownMachine) => (name === null || id.includes(name) ? id : `${name} (${id})`)

function ambiguous(index: KnownIndex, word: MachineWord['word'], name: string, all: readonly KnownMachine[]): Refusal {
  const shown = all.slice(0, 5).map(shownAs).join(', ')
  return {
    kind: 'bad-value',
    message: `${name} is ambiguous in ${index.source}: ${shown}${all.length > 5 ? `, +${all.length - 5} more` : ''}`,
    subject: name,
    position: { start: word.start, end: word.end },
    remedy: `give each machine a name of its own in ${index.source}; smith guesses none`,
  }
}

/** What the word means among the machines of the source. */
export function findKnown(
  view: View,
  index: KnownIndex,
  word: MachineWord,
  matches: (name: string) => boolean,
  finds: Finds,
): void {
  switch (word.kind) {
    case 'name':
      return findName(view, index, word.name, word.word, finds)
    case 'address':
      return findAddress(view, index, word, finds)
    case 'pattern':
      return findMatches(view, index, word, matches, finds)
  }
}

function findName(view: View, index: KnownIndex, name: string, word: MachineWord['word'], finds: Finds): void {
  const [known] = index.byName.get(name) ?? []
  if (known !== undefined) return take(view, index, known, { word, matched: false }, finds)
  const isEnrolled = view.get('names', name) !== undefined
  const near = [
    ...namesakes(index, name),
    ...(index.byAddress.get(name) ?? []),
    ...(index.byName.get(nearestNames(name, index.byName.keys(), 1)[0] ?? '') ?? []),
  ].flatMap((one) => one.name ?? [])
  const remedy = isEnrolled
    ? `enter it in ${index.source}, or revoke it here; smith machines --missing shows all that differs`
    : near.length > 0
      ? `did you mean ${[...new Set(near)].slice(0, 3).join(' or ')}?`
      : `enter it in ${index.source}; smith machines lists those enrolled`
  finds.refusals.push({
    kind: 'unknown-machine',
    message: isEnrolled
      ? `${name} is enrolled, and ${index.source} does not know it`
      : `${index.source} knows no machine ${name}`,
    subject: name,
    position: { start: word.start, end: word.end },
    remedy,
  })
}

function findAddress(
  view: View,
  index: KnownIndex,
  word: Extract<MachineWord, { kind: 'address' }>,
  finds: Finds,
): void {
  const all = index.byAddress.get(word.address) ?? []
  const connected = connectedFrom(view, word.address)
  const [known] = all
  const others = connected.filter((machine) => machine.name !== known?.name)
  const [other] = others
  if (all.length > 1) return void finds.refusals.push(ambiguous(index, word.word, word.address, all))
  if (connected.length > 1 || (known !== undefined && known.name !== null && other !== undefined)) {
    const inSource = known === undefined ? '' : `of ${shownAs(known)} in ${index.source}, and `
    finds.refusals.push({
      kind: 'bad-value',
      message: `${word.address} is the address ${inSource}from which the agent${connected.length > 1 ? 's' : ''} of ${connected
        .map((machine) => machine.name)
        .toSorted(compareNaturally)
        .join(', ')} connect${connected.length > 1 ? '' : 's'}`,
      subject: word.address,
      position: { start: word.word.start, end: word.word.end },
      remedy: 'use the name of the one you mean',
    })
    return
  }
  if (known !== undefined) return take(view, index, known, { word: word.word, matched: false }, finds)
  if (other !== undefined) return findName(view, index, other.name, word.word, finds)
  finds.refusals.push({
    kind: 'unknown-machine',
    message: `${index.source} knows no machine with the address ${word.address}, and no agent is connected from it`,
    subject: word.address,
    position: { start: word.word.start, end: word.word.end },
    remedy: 'use the name of the machine; smith machines shows names and addresses',
  })
}

function findMatches(
  view: View,
  index: KnownIndex,
  word: Extract<MachineWord, { kind: 'pattern' }>,
  matches: (name: string) => boolean,
  finds: Finds,
): void {
  const names = [...index.byName.keys()].filter((name) => matches(name)).toSorted(compareNaturally)
  for (const name of names) {
    const [known] = index.byName.get(name) ?? []
    if (known !== undefined) take(view, index, known, { word: word.word, matched: true }, finds)
  }
  if (names.length > 0) return
  finds.refusals.push({
    kind: 'no-match',
    message: `no machine in ${index.source} matches ${word.word.text}`,
    subject: word.word.text,
    position: { start: word.word.start, end: word.word.end },
    remedy: 'smith machines lists those enrolled, smith machines --missing what differs',
  })
}

type Asked = { readonly word: MachineWord['word']; readonly matched: boolean }

function take(view: View, index: KnownIndex, known: KnownMachine, asked: Asked, finds: Finds): void {
  const rivals = rivalsOf(index, known)
  const name = known.name ?? known.addresses[0] ?? known.id
  if (rivals.length > 0) return void finds.refusals.push(ambiguous(index, asked.word, name, [known, ...rivals]))
  const absent = (why: string, remedy: string, maySkip = false) =>
    void finds.absent.push({ ...asked, name, why, remedy, maySkip })
  if (known.barred !== null)
    return absent(
      `not to be patched: ${index.source} has it as ${known.barred}`,
      `see to it in ${index.source}, or use except:${name}`,
    )
  const machine = enrolledAs(view, known)
  if (machine !== undefined) return void finds.machines.push({ machine, matched: asked.matched })
  const host = known.name === null ? undefined : view.get('names', hostOf(known.name))
  const alike = host === undefined ? undefined : view.get('machines', host.machine)
  absent(
    `known to ${index.source} and has no agent here`,
    alike === undefined
      ? `enrol it (smith enrol new --name ${name}), or use except:${name}`
      : `${alike.name} is enrolled: when it is the same machine, take its domain off with [lookup] domains`,
    alike === undefined,
  )
}

/** The enrolled machine of that name; where the source has an address only, the one whose agent connects from it. */
export function enrolledAs(view: View, known: KnownMachine): Machine | undefined {
  if (known.name !== null) {
    const entry = view.get('names', known.name)
    return entry === undefined ? undefined : view.get('machines', entry.machine)
  }
  const found = known.addresses.flatMap((address) => connectedFrom(view, normalAddress(address)))
  return found.length === 1 ? found[0] : undefined
}

function connectedFrom(view: View, address: string): Machine[] {
  const found: Machine[] = []
  for (const session of view.all('sessions')) {
    const machine = normalAddress(session.address) === address ? view.get('machines', session.machine) : undefined
    if (machine !== undefined) found.push(machine)
  }
  return found
}

/** One refusal for each machine named, and one for all that a pattern matched for the same reason. */
export function absentRefusals(absent: readonly Absent[]): Refusal[] {
  const groups = Map.groupBy(absent, (one) => (one.matched ? `${one.word.start} ${one.why}` : one.name))
  return [...groups.values()].map((group) => {
    const [first, ...rest] = group as [Absent, ...Absent[]]
    const names = group.map((one) => one.name)
    const shown = `${names.slice(0, 5).join(', ')}${names.length > 5 ? `, +${names.length - 5} more` : ''}`
    return {
      kind: 'machine-offline',
      message:
        rest.length === 0 || !first.matched
          ? `${first.name} is ${first.why}`
          : `${names.length} machines are ${first.why}: ${shown}`,
      subject: first.name,
      position: { start: first.word.start, end: first.word.end },
      remedy:
        rest.length === 0 || !first.matched ? first.remedy : `${first.remedy}; smith machines --missing lists them`,
    }
  })
}
