/**
 * What every view shares: who is logged in, the time of the coordinator, where in the page we are, and what was asked
 * for, kept up to date by the feed. A view says what it shows and which rows concern it; nothing else is polled.
 */
import { signal } from '@preact/signals'
import { useEffect, useState } from 'preact/hooks'
import type { FeedRow } from '../../protocol/feed.ts'
import type { Role, RouteName } from '../../protocol/http.ts'
import { type Answer, CallError, type Input, call, session } from './api.ts'
import { type Follower, anew, follow, onRow } from './feed.ts'

export type Who = Answer<'who'>
/** Null while it is not known; `nobody` asks for a token. */
export const who = signal<Who | 'nobody' | null>(null)
/** A newer coordinator serves a newer page than this one. */
export const isOutdated = signal(false)
/** The coordinator's time, by the second. */
export const now = signal(Date.now())
export const route = signal<readonly string[]>([])

const RECENT_ROWS = 100
/** What changes faster than this is asked for once in that time. */
const REFRESH_MS_MIN = 700
const own = { follower: null as Follower | null, version: '' }

export function may(...roles: readonly Role[]): boolean {
  const person = who.value
  return person !== null && person !== 'nobody' && roles.some((role) => person.roles.includes(role))
}

export async function begin(): Promise<void> {
  readRoute()
  addEventListener('hashchange', readRoute)
  addEventListener('online', () => own.follower?.retry())
  document.addEventListener('visibilitychange', () => own.follower?.retry())
  setInterval(() => (now.value = Date.now() + session.skewMs), 1000)
  session.onEnded = () => {
    own.follower?.stop()
    own.follower = null
    who.value = 'nobody'
  }
  await identify()
}

/** Also after each connection that did not come to be: it may be that the session has ended. */
async function identify(): Promise<void> {
  try {
    entered(await call('who'))
  } catch (error) {
    if (!(error instanceof CallError)) throw error
    if (error.status === 401) return
    // Whoever opens the page while the coordinator is away sees it come back.
    if (own.follower === null && who.value === null) setTimeout(() => void identify(), 2000)
  }
}

/** Somebody is logged in: the feed is followed, with some of what was before. */
export function entered(person: Who): void {
  if (own.version === '') own.version = person.version
  if (own.version !== person.version) isOutdated.value = true
  who.value = person
  const since = Math.max(0, person.rev - RECENT_ROWS)
  own.follower ??= follow({ epoch: person.epoch, rev: since }, identify)
}

export async function leave(): Promise<void> {
  await call('sessionEnd').finally(session.onEnded)
}

export function reconnect(): void {
  own.follower?.retry()
}

function readRoute(): void {
  route.value = location.hash
    .replace(/^#\/?/, '')
    .split('/')
    .map((part) => {
      try {
        return decodeURIComponent(part)
      } catch (error) {
        if (error instanceof URIError) return part
        throw error
      }
    })
    .filter((part) => part !== '')
}

export function linkTo(...parts: readonly (string | number)[]): string {
  return `#/${parts.map((part) => encodeURIComponent(part)).join('/')}`
}

export type Resource<Value> = {
  readonly value: Value | null
  readonly error: CallError | null
  readonly refresh: () => void
}

/** What a route answers, asked for again when a row concerns it and after every new connection. */
export function useResource<Name extends RouteName>(
  name: Name,
  input: Input,
  concerns: (row: FeedRow) => boolean,
): Resource<Answer<Name>> {
  const key = JSON.stringify([name, input])
  const [shown, setShown] = useState<{
    key: string
    value: Answer<Name> | null
    error: CallError | null
  }>({ key, value: null, error: null })
  const [refresh, setRefresh] = useState<() => void>(() => () => {})
  useEffect(() => {
    const loader = createLoader(
      () => call(name, input),
      (value, error) =>
        setShown((before) => ({ key, value: value ?? (before.key === key ? before.value : null), error })),
    )
    setRefresh(() => loader.ask)
    const stopRows = onRow((row) => concerns(row) && loader.ask())
    const stopAnew = anew.subscribe(() => loader.ask())
    return () => {
      stopRows()
      stopAnew()
      loader.stop()
    }
  }, [key])
  return shown.key === key ? { ...shown, refresh } : { value: null, error: null, refresh }
}

/** One question at a time, and the more seldom the longer the answer takes: a large project must not cost all of it. */
function createLoader<Value>(
  load: () => Promise<Value>,
  show: (value: Value | null, error: CallError | null) => void,
): { readonly ask: () => void; readonly stop: () => void } {
  const state = { isBusy: false, isWanted: false, isStopped: false, restUntil: 0 }
  const run = async () => {
    state.isBusy = true
    state.isWanted = false
    const begun = Date.now()
    try {
      const value = await load()
      if (!state.isStopped) show(value, null)
    } catch (error) {
      if (!(error instanceof CallError)) throw error
      if (!state.isStopped) show(null, error)
    } finally {
      // Whatever went wrong, the next row asks again.
      const restMs = Math.max(REFRESH_MS_MIN, 4 * (Date.now() - begun))
      setTimeout(() => {
        state.isBusy = false
        if (state.isWanted && !state.isStopped) void run()
      }, restMs)
    }
  }
  return {
    ask: () => {
      state.isWanted = true
      if (!state.isBusy && !state.isStopped) void run()
    },
    stop: () => (state.isStopped = true),
  }
}

export const concernsChange = (change: string) => (row: FeedRow) => row.facts.some((fact) => fact.change === change)
export const isNews = (row: FeedRow) => row.facts.some(({ fact }) => fact !== 'logAppended')
