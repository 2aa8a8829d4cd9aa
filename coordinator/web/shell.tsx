/**
 * What stands around every view: where we are, whether we are connected and since when not, who is logged in; and the
 * login where nobody is. It moves the focus to the heading of a view that was opened, so that a screen reader says it.
 */
import { useEffect, useRef, useState } from 'preact/hooks'
import { CallError, call } from './api.ts'
import { Approvals } from './approvals.tsx'
import { connection } from './feed.ts'
import { History } from './history.tsx'
import { Machine } from './machine.tsx'
import { Machines } from './machines.tsx'
import { Overview } from './overview.tsx'
import { Problem, Since } from './parts.tsx'
import { ProjectView } from './project.tsx'
import { entered, isOutdated, leave, linkTo, reconnect, route, who } from './state.ts'
import { clockText } from './text.ts'
import { now } from './state.ts'

const PLACES = [
  ['', 'Now'],
  ['approvals', 'Approvals'],
  ['machines', 'Machines'],
  ['history', 'Projects'],
] as const

export function Shell() {
  const person = who.value
  if (person === null)
    return (
      <p class="note middle" role="status">
        Asking the coordinator …
      </p>
    )
  if (person === 'nobody') return <Login />
  return (
    <>
      <a class="skip" href="#content" onClick={skip}>
        Skip to the content
      </a>
      <header class="top">
        <a class="brand" href={linkTo()}>
          smith <span class="instance">{person.instance}</span>
        </a>
        <nav aria-label="Views">
          {PLACES.map(([place, label]) => (
            <a
              key={place}
              href={linkTo(...(place === '' ? [] : [place]))}
              {...((route.value[0] ?? '') === place ? { 'aria-current': 'page' as const } : {})}
            >
              {label}
            </a>
          ))}
        </nav>
        <span class="who">
          <ConnectionSign />
          <span title={person.roles.join(', ')}>{person.name}</span>
          <button type="button" class="quiet" onClick={() => void leave()}>
            Log out
          </button>
        </span>
      </header>
      <ConnectionBanner />
      <main id="content" tabIndex={-1}>
        <View />
      </main>
    </>
  )
}

function skip(event: Event): void {
  // The address names the view, so the link must not change it.
  event.preventDefault()
  document.querySelector<HTMLElement>('#content')?.focus()
}

function View() {
  const [place = '', ...rest] = route.value
  useEffect(() => {
    const heading = document.querySelector<HTMLElement>('main h1')
    heading?.setAttribute('tabindex', '-1')
    heading?.focus({ preventScroll: true })
    document.title = `${heading?.textContent ?? 'smith'} · smith`
  }, [place, rest[0]])
  switch (place) {
    case '':
      return <Overview />
    case 'approvals':
      return <Approvals />
    case 'history':
      return <History />
    case 'machines':
      return <Machines />
    case 'machine':
      return <Machine name={rest[0] ?? ''} order={rest[1] ?? null} line={Number(rest[2] ?? 0)} />
    case 'project':
      return <ProjectView change={rest[0] ?? ''} part={rest[1] ?? 'machines'} />
    default:
      return (
        <>
          <h1>There is no such view</h1>
          <p>
            <a href={linkTo()}>What goes now</a>
          </p>
        </>
      )
  }
}

function ConnectionSign() {
  const { state } = connection.value
  const [tone, text] =
    state === 'connected' ? ['good', 'live'] : ['bad', state === 'lost' ? 'not connected' : 'connecting']
  return (
    <span class={`state ${tone}`} role="status" data-connection={state}>
      ● {text}
    </span>
  )
}

function ConnectionBanner() {
  const at = connection.value
  return (
    <>
      {at.state === 'lost' && (
        <div class="banner bad" role="alert">
          <strong>Not connected</strong> since {clockText(at.heardAt, Date.now())} (
          <Since at={at.heardAt + (now.value - Date.now())} />
          ). What is shown is from then. It is tried again by itself.{' '}
          <button type="button" onClick={reconnect}>
            Try now
          </button>
        </div>
      )}
      {isOutdated.value && (
        <div class="banner wait" role="status">
          The coordinator was upgraded.{' '}
          <button type="button" onClick={() => location.reload()}>
            Load the new page
          </button>
        </div>
      )}
    </>
  )
}

function Login() {
  const [error, setError] = useState<CallError | null>(null)
  const [isBusy, setBusy] = useState(false)
  const field = useRef<HTMLInputElement>(null)
  useEffect(() => field.current?.focus(), [])
  const enter = async (event: Event) => {
    event.preventDefault()
    setBusy(true)
    try {
      entered(await call('sessionOpen', { body: { token: field.current?.value.trim() ?? '' } }))
    } catch (refused) {
      if (!(refused instanceof CallError)) throw refused
      setError(refused)
      field.current?.select()
    } finally {
      setBusy(false)
    }
  }
  return (
    <main class="login">
      <h1>smith</h1>
      <form onSubmit={(event) => void enter(event)}>
        <label for="token">Your personal token</label>
        <input id="token" ref={field} type="password" autocomplete="current-password" required spellcheck={false} />
        <button type="submit" class="strong" disabled={isBusy}>
          Log in
        </button>
      </form>
      <Problem error={error} />
      <p class="note">
        An admin makes one: <code>smith user add NAME --role requester</code>. It is kept in no place of this browser.
      </p>
    </main>
  )
}
