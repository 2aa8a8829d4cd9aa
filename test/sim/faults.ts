/** Which faults a simulated world may have, which of them a seed turns on, and how often each comes. */
import type { Dice } from './random.ts'
import { ALWAYS, type Schedule, chooseSchedule } from './schedule.ts'

/** Faults that come by themselves, and the most that come of each in ten minutes. */
export const COMING = {
  cut: 12,
  'half-open': 6,
  partition: 4,
  'one way': 4,
  storm: 2,
  'agent killed': 16,
  'agent power cut': 6,
  'runner killed': 30,
  'runner power cut': 12,
  'wrapper killed': 15,
  'wrapper power cut': 10,
  'power cut': 5,
  reboot: 3,
  'disk full': 5,
  'disk broken': 5,
  'clock jump': 5,
  'coordinator killed': 6,
  'coordinator clock jump': 2,
  'commit fails': 2,
  'old database': 1,
  clone: 1,
  'archive tampered': 2,
  'package changed': 2,
} as const
export type Coming = keyof typeof COMING
/** Every fault that is told when it has come about. */
export const MET: readonly string[] = [
  ...Object.keys(COMING),
  'apt fails',
  'apt hangs',
  'apt killed',
  'apt lies',
  'script fails',
  'script hangs',
  'reboot does nothing',
  'provider down',
  'provider slow',
  'provider wrong',
  'evil agent',
  'evil inbox',
  'evil peer',
  'servicenow down',
  'servicenow slow',
  'answer lost',
  'other rows',
  'other record',
  'change held',
  'change withdrawn',
  'window over',
  'change ended',
]

/** Of the ServiceNow of a seed that has one, and of what its people do to changes there. */
export type RemoteFaults = {
  /** Changes are raised and approved in ServiceNow, not in smith. */
  readonly isRemote: boolean
  /** Chances, of each call there. */
  remoteDown: number
  remoteSlow: number
  remoteLost: number
  remoteOther: number
  /** Chances, each time that its people look at a change. */
  remoteHeld: number
  remoteWithdrawn: number
  remoteShut: number
  remoteEnded: number
  /** How long a change is planned for, when its request does not say. */
  readonly plannedMinutes: number
}

export type Faults = RemoteFaults & {
  readonly rates: ReadonlyMap<Coming, number>
  /** Chances, each time the program is run. */
  aptFails: number
  aptHangs: number
  aptKilled: number
  aptLies: number
  rebootFails: number
  /** Of an answer of the change provider. */
  providerDown: number
  providerSlow: number
  providerWrong: number
  /** One of the machines says what it likes. */
  readonly isOneEvil: boolean
  /** Someone between machines and coordinator says what it likes, without the order key. */
  readonly isPeerHostile: boolean
  /** Clocks run up to this share of a second fast or slow in each. */
  driftMax: number
  delayMsMax: number
  aptMsMax: number
  /** When the instance may patch: no fault, but chosen with them. */
  readonly schedule: Schedule
}

const chanceBy =
  (dice: Dice) =>
  (...likely: readonly number[]) =>
    dice.chance(0.5) ? dice.pick(likely) : 0

/** A third of the seeds has its changes in ServiceNow. By dice of its own, so that the others are as they were. */
export function chooseRemote(dice: Dice): RemoteFaults {
  if (dice.below(3) !== 0) return LOCAL
  const chance = chanceBy(dice)
  return {
    isRemote: true,
    remoteDown: chance(0.02, 0.1, 0.3),
    remoteSlow: chance(0.05, 0.3),
    remoteLost: chance(0.02, 0.1, 0.3),
    remoteOther: chance(0.05, 0.2),
    remoteHeld: chance(0.05, 0.2),
    remoteWithdrawn: chance(0.05, 0.2),
    remoteShut: chance(0.05, 0.2),
    remoteEnded: chance(0.02, 0.1),
    plannedMinutes: dice.pick([10_080, 10_080, 60, 30]),
  }
}
const LOCAL: RemoteFaults = {
  isRemote: false,
  remoteDown: 0,
  remoteSlow: 0,
  remoteLost: 0,
  remoteOther: 0,
  remoteHeld: 0,
  remoteWithdrawn: 0,
  remoteShut: 0,
  remoteEnded: 0,
  plannedMinutes: 10_080,
}

/** Each seed turns a random half of the faults on. */
export function chooseFaults(dice: Dice): Omit<Faults, keyof RemoteFaults> {
  const chance = chanceBy(dice)
  const rates = new Map<Coming, number>()
  for (const kind of Object.keys(COMING) as Coming[])
    if (dice.chance(0.5)) rates.set(kind, dice.between(1, COMING[kind] * 10) / 10)
  return {
    rates,
    aptFails: chance(0.02, 0.1, 0.3),
    aptHangs: chance(0.01, 0.03),
    aptKilled: chance(0.02, 0.1),
    aptLies: chance(0.02, 0.1),
    rebootFails: chance(0.1, 0.5),
    providerDown: chance(0.05, 0.3),
    providerSlow: chance(0.1, 0.5),
    providerWrong: chance(0.05, 0.3),
    isOneEvil: dice.chance(0.2),
    isPeerHostile: dice.chance(0.2),
    driftMax: chance(0.0005, 0.05),
    delayMsMax: dice.pick([5, 200, 1500]),
    aptMsMax: dice.pick([300, 1500, 6000]),
    schedule: chooseSchedule(dice),
  }
}

/** Nothing fails any more. */
export function heal(faults: Faults): void {
  faults.aptFails = 0
  faults.aptHangs = 0
  faults.aptKilled = 0
  faults.aptLies = 0
  faults.rebootFails = 0
  faults.providerDown = 0
  faults.providerSlow = 0
  faults.providerWrong = 0
  faults.remoteDown = 0
  faults.remoteSlow = 0
  faults.remoteLost = 0
  faults.remoteOther = 0
  faults.delayMsMax = Math.min(faults.delayMsMax, 200)
  faults.aptMsMax = Math.min(faults.aptMsMax, 1500)
}

/** No fault at all, for a world that only has to work. */
export function noFaults(): Faults {
  return {
    rates: new Map(),
    aptFails: 0,
    aptHangs: 0,
    aptKilled: 0,
    aptLies: 0,
    rebootFails: 0,
    providerDown: 0,
    providerSlow: 0,
    providerWrong: 0,
    ...LOCAL,
    isOneEvil: false,
    isPeerHostile: false,
    driftMax: 0,
    delayMsMax: 5,
    aptMsMax: 300,
    schedule: ALWAYS,
  }
}
