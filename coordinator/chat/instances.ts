/**
 * The instances of the bot's list, each reached over its interface like a client's: by the bot itself to look, and
 * for a person to ask. The bot's token is read anew from its file each time, so a new one is good at once.
 */
import { randomInt } from 'node:crypto'
import { type Client, createClient } from '../client/client.ts'
import { isNotFound, isUnreachable } from '../client/failure.ts'
import type { Target, Timers } from '../client/target.ts'
import { RefusedError } from '../../protocol/errors.ts'
import type { ProjectView } from '../../protocol/http.ts'
import type { ChatPorts, InstanceConfig } from './ports.ts'

export type Instance = {
  readonly name: string
  readonly bot: () => Client
  readonly as: (person: string) => Client
  readonly target: () => Target
}
/** Whether an instance has a change; `lost` says why it could not be asked. */
export type Found =
  | { readonly instance: Instance; readonly view: ProjectView; readonly lost: null }
  | { readonly instance: Instance; readonly view: null; readonly lost: string | null }

export function createInstances(ports: ChatPorts, callMs: number): readonly Instance[] {
  const timers = timersOf(ports)
  return ports.config.instances.map((config) => {
    const target = (person?: string) => targetOf(ports, config, callMs, person)
    return {
      name: config.name,
      target: () => target(),
      bot: () => createClient(timers, target()),
      as: (person) => createClient(timers, target(person)),
    }
  })
}

export function timersOf({ clock }: Pick<ChatPorts, 'clock'>): Timers {
  return { after: clock.after, randomBelow: (limit) => randomInt(limit) }
}

function targetOf(ports: ChatPorts, config: InstanceConfig, timeoutMs: number, person?: string): Target {
  const { name, host, port, pin } = config
  const token = ports.readSecret(config.tokenFile)
  const reach = { kind: 'tls' as const, host, port, pin, token }
  return { name, timeoutMs, reach, ...(person === undefined ? {} : { person }) }
}

/** Asks one instance for a change, in the name of the person. */
export async function findChange(instance: Instance, person: string, change: string): Promise<Found> {
  try {
    const view = await instance.as(person).call('project', { params: { change } })
    return { instance, view, lost: null }
  } catch (error) {
    if (isNotFound(error)) return { instance, view: null, lost: null }
    return { instance, view: null, lost: whyLost(error) }
  }
}

/** One line of why a call did not succeed, refusals included. */
export function whyLost(error: unknown): string {
  if (error instanceof RefusedError) return error.refusals.map((refusal) => refusal.message).join('; ')
  if (isUnreachable(error) || error instanceof Error) return error.message
  return String(error)
}
