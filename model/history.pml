/*
 * History, loss and age: the protocol between one center and one gate, for the Spin model checker.
 *
 * What is modelled: commit in three steps (database, high-water mark, publication), the start
 * rules, witnesses, declared successors, the gate's rules on Welcome, and age by echoed pulses.
 * What goes wrong: a crash between any two steps, rollback of the database, of the high-water
 * mark, of both, a copied directory, promotion of a lagging standby (-DPG), lost connections,
 * and any delay of any message. A frozen process is one that takes no step for a while; every
 * order of steps is explored, so every freeze is.
 *
 * Time is not a number here. A pulse stands for the moment it was queued, and what matters about
 * that moment is which edits were acknowledged by then. So `current_at` of a world is the set of
 * edits acknowledged when the echoed pulse was queued, and I3 says: that set is in the world.
 *
 * The invariants are the assertions (`I1` to `I4` in their comments). Each -DMUT_.. breaks one
 * rule; `cargo test -p xtask` checks that every one of them is found, and that the model without
 * them holds. -DREACH_.. ask whether an interesting state can be reached at all.
 */

#ifndef EDITS
#define EDITS 3             /* edits by the administrator */
#endif
#ifndef FAULTS
#define FAULTS 1            /* rollbacks, copies, promotions */
#endif
#ifndef CRASHES
#define CRASHES 1           /* crashes beside those that a fault needs */
#endif
#define IDS 7               /* states of the store ever made: the first, edits, successors */
#define HISTORIES 4         /* 1 is the first */
#ifndef PULSES
#define PULSES 1            /* a stream */
#endif
#define BIG 16              /* how far above everything a successor goes on */
#define NONE 255

/* Whether a loss that no file shows may also go unseen by followers: -DMAY_MISS=1 shows the limit. */
#ifndef MAY_MISS
#define MAY_MISS 0
#endif
#if MAY_MISS
#define WITNESSED(x) true
#else
#define WITNESSED(x) (world != NONE && hist[world] == hist[x] && !has(line[x], world))
#endif

#ifdef MUT_GATE_GOES_BACK
#define GOES_BACK true
#else
#define GOES_BACK false
#endif
#ifdef MUT_NO_INODE
#define CHECKS_INODE false
#else
#define CHECKS_INODE true
#endif

#define has(set, i) (((set) >> (i)) & 1)

mtype = { hello, pulse, applied, welcome, state, beat };

/* A state of the store is a number, which stands for its chain: two numbers are two chains. */
byte made = 1;
byte hist[IDS];             /* the history it is of */
byte rev[IDS];              /* its revision */
byte line[IDS];             /* it and all states before it */
byte forked;                /* states at which a timeline ended: the next revision is far above */
byte histories = 1;
byte ancestors[HISTORIES];  /* of a history */
byte states_of[HISTORIES];         /* the states of a history */

/* Two directories: 0 is the original, 1 a copy. */
byte db[2];
byte high[2];
bit lost[2];
bit copied[2];              /* the inode in `high` is another one */
byte here;                  /* the directory behind the center's address */
bit unlinked;               /* the path leads to another file than the one that is open */

/* The center. */
#define DOWN 0
#define WAITING 1           /* for witnesses: reads Hellos, says nothing, takes no edit */
#define SERVING 2
#define LOST 3              /* or refused to start: only a declared successor leads out */
byte center = DOWN;
byte step;                  /* 0 idle, 1 committed, 2 high written, 3 published */
byte published;
byte pending = NONE;
byte told;                  /* states that were ever published: shown to a follower or a caller */
byte acked;                 /* edits that were acknowledged */
byte said_lost;             /* edits that the center has declared lost */
byte witnessed;             /* the highest revision of a mark that showed the loss */
bit needs_witness;          /* the loss cannot be seen locally; see FAULTS below */

/* Two streams: the newest and the one before it, whose messages may still be under way. */
byte slot;
chan to_center[2] = [2] of { mtype, byte };
chan to_gate[2] = [2] of { mtype, byte, byte };
bit served[2];
byte newest[2];             /* newest nonce read */
byte round[2];              /* what the round read first */
byte sent[2];

/* The gate. */
#define OFF 0
#define ASKED 1
#define FOLLOWS 2
byte gate = OFF;
byte world = NONE;
byte before = NONE;         /* the world before it, which a request may still hold */
byte current;               /* `current_at` of `world` */
byte nonce;
byte ring[PULSES + 1];
bit foreign;                /* was told of a center that it does not follow */

byte edits; byte faults; byte crashes;
byte it;                    /* scratch, always 0 between two steps */

#define successor_of(h, old) (has(ancestors[h], old))
/* Acknowledged in this world's history, not declared lost, and not there. */
#define missing(set, w) ((set) & states_of[hist[w]] & ~line[w] & ~said_lost)

/* A state after `from`, in history `h`, at revision `r`. */
inline make(from, h, r) {
	hist[made] = h;
	rev[made] = r;
	line[made] = line[from] | (1 << made);
	states_of[h] = states_of[h] | (1 << made);
	made++
}

/* I1: no two states are ever published under one (history, revision). */
inline publish(c) {
	it = 0;
	do
	:: it < made ->
		assert(!(has(told, it) && it != c && hist[it] == hist[c] && rev[it] == rev[c]));
		it++
	:: else -> break
	od;
	it = 0;
	told = told | (1 << c);
	published = c
}

inline go_down(to) {
	center = to; step = 0; pending = NONE;
	served[0] = 0; served[1] = 0; round[0] = NONE; round[1] = NONE; newest[0] = 0; newest[1] = 0
}

/* A mark with a valid seal, from a Hello or an Applied. */
inline witness(m) {
	if
#ifndef MUT_NO_WITNESS
	/* Above the head, another chain at r, or in the gap of a fork. */
	:: m != NONE && hist[m] == hist[published] && !has(line[published], m) ->
		if
		:: rev[m] > witnessed -> witnessed = rev[m]
		:: else
		fi;
		lost[here] = 1;
		go_down(LOST)
#endif
	:: else
	fi
}

inline older(x) {
	/* Any state on the line before x. */
	do
	:: x > 0 && has(line[x], x) ->
		it = x - 1;
		do
		:: !has(line[x], it) -> it--
		:: has(line[x], it) -> break
		od;
		x = it; it = 0;
		if
		:: true -> break
		:: x > 0
		fi
	:: x == 0 -> break
	od
}

inline swap(c) {
	/* I2: along the line, or to a declared successor above everything held. */
	assert(world == NONE || has(line[c], world)
		|| (successor_of(hist[c], hist[world]) && rev[c] > rev[world]));
	if
	:: world != NONE && hist[c] == hist[world]
	:: else -> current = 0             /* age unknown until an echo of the new history */
	fi;
	before = world;
	world = c
}

active proctype all() {
	byte m; byte n; byte i; byte x;
	d_step {
		hist[0] = 1; rev[0] = 1; line[0] = 1; states_of[1] = 1; told = 1;
		round[0] = NONE; round[1] = NONE
	}
again:	do
	/* -------- the center: one edit -------- */
	:: atomic { center == SERVING && step == 0 && edits < EDITS && made < IDS ->
		edits++;
		if
		:: unlinked -> lost[here] = 1; go_down(LOST)
		:: !unlinked ->
			if
			:: has(forked, db[here]) -> make(db[here], hist[db[here]], rev[db[here]] + BIG)
			:: else -> make(db[here], hist[db[here]], rev[db[here]] + 1)
			fi;
			pending = made - 1;
			db[here] = pending;
			step = 1
		fi }
#ifdef MUT_PUBLISH_FIRST
	:: atomic { step == 1 -> publish(pending); step = 2 }
	:: atomic { step == 2 -> high[here] = pending; step = 3 }
#else
#ifdef MUT_NO_HIGH
	:: atomic { step == 1 -> step = 2 }
#else
	:: atomic { step == 1 -> high[here] = pending; step = 2 }
#endif
	:: atomic { step == 2 -> publish(pending); step = 3 }
#endif
	:: atomic { step == 3 -> acked = acked | (1 << pending); pending = NONE; step = 0 }
#ifdef MUT_ACK_FIRST
	:: atomic { step == 1 && !has(acked, pending) -> acked = acked | (1 << pending) }
#endif

	/* -------- the center: crash, start, successor -------- */
	:: atomic { center != DOWN && crashes < CRASHES -> crashes++; go_down(DOWN) }
	:: atomic { center == DOWN ->
		unlinked = 0;
		published = db[here];
		x = NONE;
		if
		:: lost[here] -> center = LOST
#ifdef PG
		:: !lost[here] -> center = WAITING
#else
		:: !lost[here] && copied[here] && CHECKS_INODE -> center = LOST
		:: !lost[here] && !(copied[here] && CHECKS_INODE) ->
			/* head = high, or high+1 whose previous chain is high's */
			if
			:: db[here] == high[here] -> center = WAITING
			:: (db[here] != high[here] && has(line[db[here]], high[here])
			    && hist[db[here]] == hist[high[here]] && rev[db[here]] == rev[high[here]] + 1) ->
				high[here] = db[here]; center = WAITING
			:: else -> lost[here] = 1; center = LOST
			fi
#endif
		fi;
		x = 0;
		/* What is in the store is now the head, known or not: others may be told of it. */
		if
		:: center == WAITING -> publish(db[here])
		:: else
		fi }
	:: atomic { center == WAITING && (!needs_witness || MAY_MISS) ->
		needs_witness = 0;
		center = SERVING;
		/* I4: what was acknowledged is there, or the center has said that it is lost. */
		assert(missing(acked, published) == 0) }
	/* `accept-loss` and `adopt`: a new history that goes on above every revision ever told. */
	:: atomic { center == LOST && made < IDS && histories < HISTORIES - 1 ->
		x = rev[db[here]];
		if
		:: witnessed > x -> x = witnessed
		:: else
		fi;
#ifdef MUT_SAME_HISTORY
		make(db[here], hist[db[here]], rev[db[here]] + 1);
#else
		histories++;
		ancestors[histories] = ancestors[hist[db[here]]] | (1 << hist[db[here]]);
		make(db[here], histories, x + BIG);
#endif
		x = 0;
		db[here] = made - 1; high[here] = made - 1;
		lost[here] = 0; copied[here] = 0; needs_witness = 0; unlinked = 0;
		said_lost = said_lost | (acked & ~line[made - 1]);
		publish(db[here]);
		center = WAITING }

	/* -------- the center: a follower's stream -------- */
	:: atomic { (center == WAITING || center == SERVING) && to_center[0]?[hello] -> i = 0; goto heard_hello }
	:: atomic { (center == WAITING || center == SERVING) && to_center[1]?[hello] -> i = 1; goto heard_hello }
	:: atomic { center == SERVING && served[0] && nempty(to_center[0]) && !to_center[0]?[hello] -> i = 0; goto heard }
	:: atomic { center == SERVING && served[1] && nempty(to_center[1]) && !to_center[1]?[hello] -> i = 1; goto heard }
	/* A round: the nonce is read first, then the head. */
	:: atomic { center == SERVING && served[0] && newest[0] > 0 && round[0] == NONE -> i = 0; goto round_begins }
	:: atomic { center == SERVING && served[1] && newest[1] > 0 && round[1] == NONE -> i = 1; goto round_begins }
	:: atomic { center == SERVING && served[0] && round[0] != NONE && empty(to_gate[0]) -> i = 0; goto round_ends }
	:: atomic { center == SERVING && served[1] && round[1] != NONE && empty(to_gate[1]) -> i = 1; goto round_ends }

	/* -------- the gate -------- */
	:: atomic { true ->
		/* A new stream; the one before last is gone with all its messages. */
		slot = 1 - slot;
		do
		:: nempty(to_center[slot]) -> to_center[slot]?_,_
		:: empty(to_center[slot]) -> break
		od;
		do
		:: nempty(to_gate[slot]) -> to_gate[slot]?_,_,_
		:: empty(to_gate[slot]) -> break
		od;
		served[slot] = 0; newest[slot] = 0; round[slot] = NONE; sent[slot] = NONE;
		nonce = 0;
		it = 0;
		do
		:: it <= PULSES -> ring[it] = 0; it++
		:: else -> break
		od;
		it = 0;
		gate = ASKED;
		to_center[slot]!hello,world }
	:: atomic { gate == FOLLOWS && nonce < PULSES && nfull(to_center[slot]) ->
		nonce++;
		ring[nonce] = acked;
		to_center[slot]!pulse,nonce }
	:: atomic { nempty(to_gate[slot]) -> i = slot; goto gate_hears }
#ifdef MUT_OLD_STREAM
	:: atomic { gate == FOLLOWS && nempty(to_gate[1 - slot]) -> i = 1 - slot; goto gate_hears }
#endif

	/* -------- what goes wrong -------- */
#ifdef PG
	/* A standby that lags becomes the primary: a fork. A loss that the center's memory does not
	   show needs a follower that holds a mark beyond it. */
	:: atomic { faults < FAULTS && db[0] > 0 && step == 0 ->
		x = db[0];
		older(x);
		if
		:: x != db[0] && (center == SERVING || WITNESSED(x)) ->
			faults++;
			if
			:: center == SERVING -> lost[0] = 1; go_down(LOST)   /* memory > database */
			:: else -> needs_witness = 1; go_down(DOWN)
			fi;
			db[0] = x;
			forked = forked | (1 << x)
		:: else
		fi;
		x = 0 }
#else
#ifdef COPIES
	/* The directory is copied, later the copy is what the address leads to, and back again. */
	:: atomic { faults < FAULTS && !copied[1] && here == 0 && db[1] == 0 && db[0] > 0 && step == 0 ->
		faults++;
		db[1] = db[0]; high[1] = db[0]; lost[1] = 0; copied[1] = 1 }
	:: atomic { (copied[1] || db[1] > 0) && center != DOWN && step == 0 && crashes < CRASHES ->
		crashes++;
		here = 1 - here; unlinked = 0; go_down(DOWN) }
#else
	/* The database is an older one again; under a running center, at the path only. */
	:: atomic { faults < FAULTS && db[here] > 0 && (center != SERVING || step == 0) ->
		faults++;
		older(db[here]);
		if
		:: center == SERVING -> unlinked = 1
		:: else -> go_down(DOWN)
		fi }
	:: atomic { faults < FAULTS && high[here] > 0 && center == DOWN -> faults++; older(high[here]) }
	/* Both are: what no file shows. Only a follower that holds a mark beyond it does. */
	:: atomic { faults < FAULTS && db[here] > 0 && center != SERVING && db[here] == high[here] ->
		x = db[here];
		older(x);
		if
		:: WITNESSED(x) ->
			faults++; db[here] = x; high[here] = x; lost[here] = 0;
			needs_witness = 1; go_down(DOWN)
		:: else
		fi;
		x = 0 }
#endif
#endif
	/* What is asked about may happen. */
#ifdef REACH_SUCCESSOR
	:: atomic { world != NONE && hist[world] == 2 && current != 0 -> assert(false) }
#endif
#ifdef REACH_LOST_BY_WITNESS
	:: atomic { center == LOST && witnessed > 0 -> assert(false) }
#endif
#ifdef REACH_FOREIGN
	:: atomic { foreign -> assert(false) }
#endif
#ifdef REACH_CURRENT
	:: atomic { world == 2 && has(current, 2) -> assert(false) }
#endif
	od;

heard_hello:
	atomic {
		to_center[i]?hello,m;
#ifdef MUT_NO_WITNESS
		needs_witness = 0;
#endif
		witness(m);
		if
		:: center == WAITING -> to_center[i]!hello,m   /* read; it is answered after the wait */
		:: center == SERVING ->
			served[i] = 1;
			to_gate[i]!welcome,published,0;
			sent[i] = m
		:: else
		fi;
		m = 0; i = 0
	}
	goto again;
heard:
	atomic {
		if
		:: to_center[i]?pulse,n -> newest[i] = n; n = 0
		:: to_center[i]?applied,m -> witness(m); m = 0
		fi;
		i = 0
	}
	goto again;
round_begins:
	atomic {
#ifdef MUT_HEAD_FIRST
		round[i] = published;
#else
		round[i] = newest[i];
#endif
		i = 0
	}
	goto again;
round_ends:
	atomic {
#ifdef MUT_HEAD_FIRST
		x = round[i]; n = newest[i];
#else
		x = published; n = round[i];
#endif
		if
		:: sent[i] == NONE || (x != sent[i]) -> to_gate[i]!state,x,0; sent[i] = x
		:: else
		fi;
		to_gate[i]!beat,x,n;
		round[i] = NONE; x = 0; n = 0; i = 0
	}
	goto again;
gate_hears:
	atomic {
		if
		:: to_gate[i]?welcome,x,_ ->
			if
			:: gate == ASKED ->
				if
				:: (world == NONE || (hist[world] == hist[x] && rev[x] >= rev[world])
				    || successor_of(hist[x], hist[world]) || GOES_BACK) -> gate = FOLLOWS
				:: else -> gate = OFF; foreign = 1       /* keep, try the next address */
				fi
			:: else
			fi
		:: to_gate[i]?state,x,_ ->
			if
			:: gate == FOLLOWS ->
				if
				:: world == NONE || rev[x] > rev[world] || (GOES_BACK && x != world) ->
					swap(x);
					if
					:: nfull(to_center[slot]) -> to_center[slot]!applied,x
					:: full(to_center[slot])     /* an Applied that is late is replaced */
					fi
				:: else
				fi
			:: else
			fi
		:: to_gate[i]?beat,x,n ->
			if
			:: gate == FOLLOWS && world != NONE && hist[world] == hist[x] && rev[world] >= rev[x] ->
#ifdef MUT_RECEIPT
				current = current | acked;
#else
				current = current | ring[n];
#endif
				/* I3: what was acknowledged before (now - age) is in the world that decides. */
				assert(missing(current, world) == 0);
#ifdef MUT_LIVE_AGE
				/* A request that holds the world before, and reads the age of this one. */
				assert(before == NONE || missing(current, before) == 0);
#endif
			:: else
			fi
		fi;
		x = 0; n = 0; i = 0
	}
	goto again
}
