/**
 * What a handler gets and gives, and the one way in which it changes anything: `submit`, answered after the commit.
 * The actor comes from the authentication, never from a body.
 */
import type * as v from 'valibot'
import { RefusedError } from '../../protocol/errors.ts'
import type { ROUTES, RouteName } from '../../protocol/http.ts'
import type { Command, Event } from '../domain/events.ts'
import type { Actor } from '../domain/state.ts'
import type { Answer, ApiPorts } from './ports.ts'
import type { WhenGone } from './waiters.ts'

export type Call<Name extends RouteName = RouteName> = {
  readonly actor: Actor
  readonly address: string
  /** The session in a browser that it comes from. */
  readonly session: string | null
  readonly params: Readonly<Record<string, string>>
  readonly query: Readonly<Record<string, string | undefined>>
  readonly body: (typeof ROUTES)[Name]['body'] extends v.GenericSchema
    ? v.InferOutput<NonNullable<(typeof ROUTES)[Name]['body']>>
    : null
  readonly whenGone: WhenGone
}
export type Handled<Name extends RouteName> = Answer<v.InferOutput<(typeof ROUTES)[Name]['answer']>> & {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
}
export type Handlers = { readonly [Name in RouteName]: (call: Call<Name>) => Promise<Handled<Name>> | Handled<Name> }

type By = { readonly actor: Actor }
export type Hand = {
  readonly submit: (by: By, event: Event) => ReturnType<ApiPorts['driver']['submit']>
  readonly command: (by: By, command: Command) => Promise<Answer<{ done: true; rev: number }>>
}

/** `state.failure` is set when a turn could not be committed: the coordinator is about to end. */
export function createHand(
  ports: Pick<ApiPorts, 'driver' | 'log' | 'readiness'>,
  state: { failure: string | null; readonly isClosing: boolean },
): Hand {
  const submit: Hand['submit'] = async (by, event) => {
    try {
      return await ports.driver.submit(by.actor, event)
    } catch (error) {
      const reason = endingReason(state.isClosing, ports.readiness?.() ?? null)
      if (!state.isClosing) state.failure ??= reason
      ports.log.error({ err: error, event: event.type }, reason)
      throw new RefusedError([
        {
          kind: 'unavailable',
          message: reason,
          remedy: 'look what became of it when the coordinator has started again',
        },
      ])
    }
  }
  return {
    submit,
    command: async (by, command) => {
      const { reply, rev } = await submit(by, { type: 'command', command })
      return reply.ok ? { ok: true, value: { done: true, rev } } : reply
    },
  }
}

/** The driver takes nothing more: it was stopped, or it failed. */
function endingReason(isClosing: boolean, notReady: string | null): string {
  if (isClosing) return 'the coordinator is stopping'
  return notReady ?? 'the coordinator could not write to its database and is ending'
}
